"""Counter-based random numbers: a value is a pure function of what it is drawn for.

A generator with a state gives other numbers as soon as a pool is cut into other batches or read by other
workers. Here each value depends on its own (seed, round, stream, sample id, draw index) only.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint32)
_WORD = np.uint64(32)
_DRAWS_PER_BLOCK = 2
# Blocks computed at once: the dozen temporaries stay in the processor's cache, and memory stays bounded.
_BLOCKS_AT_ONCE = 1 << 14


class Stream(enum.IntEnum):
    """What a random number is for; two streams of one sample are independent."""

    MIXUP = 1
    INITIAL = 2
    ATTACK = 3
    SPLIT = 4
    ACQUISITION = 5
    SHUFFLE = 6
    AUGMENT = 7
    NEIGHBORS = 8
    VALIDATION = 9
    LABEL_NOISE = 10


def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Apply the Philox4x32-10 bijection to an array of counters.

    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.

    Args:
        counter: (..., 4) uint32.
        key: (2,) uint32, shared by all counters.

    Returns:
        (..., 4) uint32 random words.

    Examples:
        >>> words = philox4x32(np.zeros(4, np.uint32), np.zeros(2, np.uint32))
        >>> [f"{word:08x}" for word in words]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = (counter[..., word] for word in range(4))
    for _ in range(10):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _WORD).astype(np.uint32) ^ c1 ^ key[0]
        c2 = (product0 >> _WORD).astype(np.uint32) ^ c3 ^ key[1]
        c1, c3 = product1.astype(np.uint32), product0.astype(np.uint32)
        key = key + _KEY_STEPS
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniform(
    seed: int,
    round_index: int,
    stream: Stream,
    sample_ids: npt.NDArray[np.int64],
    count: int,
    first: int = 0,
) -> npt.NDArray[np.float64]:
    """Draw ``count`` uniform numbers for each sample, the same in any batch and on any worker.

    The key is the seed; the counter is (id low word, id high word, draw index // 2, round and stream). A
    number takes 52 bits and lies in the middle of its cell, so 0 and 1 never occur. The first draws do not
    depend on ``count``.

    Args:
        seed: 0 <= seed < 2**64.
        round_index: 0 <= round_index < 2**24.
        stream: what the numbers are for.
        sample_ids: (N,) int64.
        count: draws per sample.
        first: draws of each sample to pass over; they and ``count`` are at most 2**33 together.

    Returns:
        (N, count) float64 in (0, 1).

    Raises:
        ValueError: if the seed or the round is out of range.

    Examples:
        >>> both = uniform(0, 3, Stream.MIXUP, np.array([7, 8]), count=4)
        >>> one = uniform(0, 3, Stream.MIXUP, np.array([8]), count=2)
        >>> bool((both[1:, :2] == one).all())
        True
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}: it must be in [0, 2**64)")
    if not 0 <= round_index < 1 << 24:
        raise ValueError(f"round_index is {round_index}: it must be in [0, 2**24)")
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)
    purpose = np.uint32(round_index << 8 | stream)
    ids = np.ascontiguousarray(sample_ids, dtype=np.int64).view(np.uint64)  # (N,)

    first_block, skipped = divmod(first, _DRAWS_PER_BLOCK)
    blocks = -(-(skipped + count) // _DRAWS_PER_BLOCK)
    draws = np.empty((len(ids), blocks * _DRAWS_PER_BLOCK), dtype=np.float64)
    blocks_at_once = max(1, min(blocks, _BLOCKS_AT_ONCE))
    rows_at_once = max(1, _BLOCKS_AT_ONCE // blocks_at_once)
    for row in range(0, len(ids), rows_at_once):
        rows = slice(row, row + rows_at_once)
        for block in range(0, blocks, blocks_at_once):
            index = np.arange(block, min(block + blocks_at_once, blocks), dtype=np.uint32)
            columns = slice(block * _DRAWS_PER_BLOCK, (block + len(index)) * _DRAWS_PER_BLOCK)
            draws[rows, columns] = _block_draws(key, ids[rows], index + np.uint32(first_block), purpose)
    return draws[:, skipped : skipped + count]


def _block_draws(
    key: npt.NDArray[np.uint32],
    ids: npt.NDArray[np.uint64],
    blocks: npt.NDArray[np.uint32],
    purpose: np.uint32,
) -> npt.NDArray[np.float64]:
    """(n,) ids and (b,) block indices to (n, 2 b) float64 in (0, 1)."""
    counter = np.empty((len(ids), len(blocks), 4), dtype=np.uint32)
    counter[..., 0] = ids.astype(np.uint32)[:, None]
    counter[..., 1] = (ids >> _WORD).astype(np.uint32)[:, None]
    counter[..., 2] = blocks
    counter[..., 3] = purpose
    words = philox4x32(counter, key).astype(np.uint64).reshape(len(ids), -1, 2)  # (n, 2 b, 2)
    bits = words[..., 0] << np.uint64(20) | words[..., 1] >> np.uint64(12)
    # 52 bits and not 53: with a half added, 53 would round up to exactly 1.
    return (bits + 0.5) * 2.0**-52

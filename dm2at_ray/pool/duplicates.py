"""Exact duplicates among the hashes of a pool, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from dm2at_ray.pool.content import HASH_BYTES

HASHES_AT_ONCE = 1 << 23


def find_duplicates(
    tables: Callable[[], Iterator[pa.Table]], total: int, first_new: int = 0, at_once: int = HASHES_AT_ONCE
) -> tuple[np.ndarray, np.ndarray]:
    """Ids from `first_new` on whose hash a lower id has too.

    The hashes are read in as many passes as are needed to hold about `at_once` of them at a time, each
    pass those of one range of values, as hashes are spread evenly. Memory: about 64 bytes for each
    of them (half a gigabyte by default), and 16 bytes for each duplicate. More than `at_once` images of
    one and the same content fall into one pass.

    Args:
        tables: Gives the columns `sample_id` and `hash` (null for an image set aside), ascending by id, anew
            for each pass.
        total: Ids in all.
        first_new: Duplicates among the ids before it are not asked for.
        at_once: Hashes to hold.

    Returns:
        The duplicates, int64 (d,) ascending, and the lowest id with the hash of each, int64 (d,).
    """
    passes = max(1, -(-total // at_once))
    found = [_one_pass(tables(), first_new, number, passes) for number in range(passes)]
    ids, firsts = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.argsort(ids)
    return ids[order], firsts[order]


def _one_pass(
    tables: Iterator[pa.Table], first_new: int, number: int, passes: int
) -> tuple[np.ndarray, np.ndarray]:
    all_ids, all_words = [], []
    for table in tables:
        known = table.filter(table.column("hash").is_valid())
        words = _words(known.column("hash"))
        chosen = (words[:, 0] >> np.uint64(32)) * np.uint64(passes) >> np.uint64(32) == number
        all_ids.append(known.column("sample_id").to_numpy()[chosen])
        all_words.append(words[chosen])
    ids = np.concatenate([np.zeros(0, np.int64), *all_ids])
    words = np.concatenate([np.zeros((0, 2), np.uint64), *all_words])
    del all_ids, all_words
    # Stable: of equal hashes the lowest id comes first.
    order = np.lexsort((words[:, 1], words[:, 0]))
    words = words[order]
    is_first = np.ones(len(ids), bool)
    is_first[1:] = (words[1:] != words[:-1]).any(axis=1)
    firsts = np.maximum.accumulate(np.where(is_first, np.arange(len(ids)), 0))
    duplicate = ~is_first & (ids[order] >= first_new)
    return ids[order[duplicate]], ids[order[firsts[duplicate]]]


def _words(hashes: pa.ChunkedArray) -> np.ndarray:
    """Hashes without nulls as uint64 (n, 2)."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[
            chunk.offset * HASH_BYTES : (chunk.offset + len(chunk)) * HASH_BYTES
        ]
        for chunk in hashes.chunks
        if len(chunk)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *chunks]).view(np.uint64).reshape(-1, 2)

"""How the pool is cut, so that no answer depends on how it is cut.

Blocks are ranges of sample ids whose bounds are multiples of the tile of the neighbour search and of the
batch size; a forward pass takes the samples of one aligned range of ids, padded to the batch size. What is
computed for a sample then depends on the pool and the batch size only, not on the number of blocks or actors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dm2at_ray.neighbors import TILE


class IdRange(NamedTuple):
    """Sample ids from `begin` up to, not including, `end`."""

    begin: int
    end: int


def pool_blocks(pool_size: int, block_rows: int, batch_size: int) -> list[IdRange]:
    """Cut the pool into blocks of about `block_rows` ids.

    Args:
        pool_size: Number of sample ids.
        block_rows: Wished size; rounded up to a multiple of TILE and of the batch size.
        batch_size: A power of two.

    Examples:
        >>> pool_blocks(2500, block_rows=1, batch_size=256)
        [IdRange(begin=0, end=1024), IdRange(begin=1024, end=2048), IdRange(begin=2048, end=2500)]
    """
    step = max(TILE, batch_size)
    rows = -(-block_rows // step) * step
    return [IdRange(begin, min(begin + rows, pool_size)) for begin in range(0, pool_size, rows)]


def unlabeled_blocks(pool_size: int, block_rows: int, batch_size: int, excluded: np.ndarray) -> list[IdRange]:
    """The blocks of the pool in which any id is left besides the `excluded` ones (sorted int64)."""
    blocks = pool_blocks(pool_size, block_rows, batch_size)
    return [block for block in blocks if unlabeled_count(block, excluded)]


def unlabeled_count(block: IdRange, excluded: np.ndarray) -> int:
    """Number of ids of a block that are not among the `excluded` ones (sorted int64)."""
    begin, end = np.searchsorted(excluded, block)
    return block.end - block.begin - int(end - begin)


def unlabeled_ids(block: IdRange, excluded: np.ndarray) -> np.ndarray:
    """Ids (n,) int64, ascending, of a block without the `excluded` ones (sorted int64)."""
    ids = np.arange(block.begin, block.end, dtype=np.int64)
    begin, end = np.searchsorted(excluded, block)
    return np.delete(ids, excluded[begin:end] - block.begin)


def aligned_batches(sample_ids: np.ndarray, batch_size: int) -> Iterator[slice]:
    """Cut ascending ids (n,) at the multiples of the batch size.

    Examples:
        >>> list(aligned_batches(np.array([0, 1, 3, 4, 9]), batch_size=4))
        [slice(0, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    bounds = np.flatnonzero(np.diff(sample_ids // batch_size)) + 1
    starts = [0, *bounds.tolist()]
    for begin, end in zip(starts, [*starts[1:], len(sample_ids)], strict=True):
        if end > begin:
            yield slice(begin, end)


def pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeat the last of (n, ...) rows until there are `count`: kernels round differently at other shapes."""
    missing = count - len(rows)
    return rows if missing <= 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])

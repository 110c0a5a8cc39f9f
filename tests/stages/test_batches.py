"""The pool is cut at fixed places, whatever the size of the blocks."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.neighbors import TILE
from dm2at_ray.stages.batches import (
    IdRange,
    aligned_batches,
    pad_rows,
    pool_blocks,
    unlabeled_blocks,
    unlabeled_count,
    unlabeled_ids,
)

pool_sizes = st.integers(1, 20_000)
block_rows = st.integers(1, 10_000)
batch_sizes = st.integers(0, 13).map(lambda exponent: 2**exponent)


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    """A pool's size and the sorted ids that are not in U: single ones, and one run of them."""
    size = draw(pool_sizes)
    some = draw(st.lists(st.integers(0, size - 1), max_size=50))
    begin, end = sorted((draw(st.integers(0, size)), draw(st.integers(0, size))))
    return size, np.unique([*some, *range(begin, end)]).astype(np.int64)


@given(pool_sizes, block_rows, batch_sizes)
def test_pool_blocks__cover_the_pool_once_at_multiples_of_tile_and_batch(
    size: int, rows: int, batch_size: int
) -> None:
    blocks = pool_blocks(size, rows, batch_size)
    assert blocks[0].begin == 0
    assert blocks[-1].end == size
    for before, after in itertools.pairwise(blocks):
        assert before.end == after.begin
        assert after.begin % TILE == 0
        assert after.begin % batch_size == 0
    longest = max(block.end - block.begin for block in blocks)
    assert all(block.end > block.begin for block in blocks)
    assert longest < rows + max(TILE, batch_size)


def test_pool_blocks__of_an_empty_pool() -> None:
    assert pool_blocks(0, block_rows=1024, batch_size=256) == []


@settings(deadline=None)
@given(pools(), block_rows, batch_sizes)
def test_aligned_batches__do_not_depend_on_the_blocks(
    pool: tuple[int, np.ndarray], rows: int, batch_size: int
) -> None:
    size, excluded = pool
    unlabeled = np.setdiff1d(np.arange(size), excluded)
    whole = [unlabeled[batch].tolist() for batch in aligned_batches(unlabeled, batch_size)]
    by_block = []
    for block in unlabeled_blocks(size, rows, batch_size, excluded):
        ids = unlabeled_ids(block, excluded)
        by_block += [ids[batch].tolist() for batch in aligned_batches(ids, batch_size)]
    assert by_block == whole
    assert sum(whole, []) == unlabeled.tolist()  # noqa: RUF017 - short lists
    for batch in whole:
        assert len({sample_id // batch_size for sample_id in batch}) == 1


@given(pools(), block_rows)
def test_unlabeled_blocks__are_those_with_anything_left(pool: tuple[int, np.ndarray], rows: int) -> None:
    size, excluded = pool
    kept = unlabeled_blocks(size, rows, 1, excluded)
    for block in pool_blocks(size, rows, 1):
        expected = np.setdiff1d(np.arange(block.begin, block.end), excluded)
        np.testing.assert_array_equal(unlabeled_ids(block, excluded), expected)
        assert unlabeled_count(block, excluded) == len(expected)
        assert (block in kept) == bool(len(expected))


def test_unlabeled_ids__small() -> None:
    excluded = np.array([1, 4, 5, 9])
    assert unlabeled_ids(IdRange(4, 8), excluded).tolist() == [6, 7]
    assert unlabeled_ids(IdRange(4, 6), excluded).tolist() == []
    assert unlabeled_ids(IdRange(0, 3), np.empty(0, np.int64)).tolist() == [0, 1, 2]
    assert unlabeled_ids(IdRange(4, 8), excluded).dtype == np.int64


def test_aligned_batches__of_nothing() -> None:
    assert list(aligned_batches(np.empty(0, np.int64), batch_size=4)) == []


def test_pad_rows__repeats_the_last() -> None:
    rows = np.array([[1, 2], [3, 4]], np.uint8)
    padded = pad_rows(rows, 4)
    assert padded.tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert padded.dtype == np.uint8
    assert pad_rows(rows, 2) is rows

"""The list of tiles covers every listed pair of rows exactly once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.neighbors.gpu.tiles import ALIGN, TileList

ROWS, COLUMNS = 16, 32


def met(tiles: np.ndarray, same: bool) -> list[tuple[int, int]]:
    """The pairs that a kernel meets in a list of tiles, by the definition in `TileList.rows`."""
    found = []
    for x_start, x_begin, x_end, y_start, y_begin, y_end in tiles.tolist():
        for i in range(max(x_start, x_begin), min(x_start + ROWS, x_end)):
            for j in range(max(y_start, y_begin), min(y_start + COLUMNS, y_end)):
                if not (same and x_begin == y_begin) or j > i:
                    found.append((i, j))
    return found


def listed(pairs: np.ndarray, same: bool) -> list[tuple[int, int]]:
    """The pairs of rows that a list of ranges means."""
    return [
        (i, j)
        for x_begin, x_end, y_begin, y_end in pairs.tolist()
        for i in range(x_begin, x_end)
        for j in range(y_begin, y_end)
        if not (same and x_begin == y_begin) or j > i
    ]


def cut(pairs: np.ndarray, same: bool) -> TileList:
    return TileList.cut(pairs, (ROWS, COLUMNS), same=same, device="cpu")


def test_cut__a_rectangle_starts_at_aligned_rows_and_goes_down_its_columns() -> None:
    tiles = cut(np.array([[10, 30, 5, 40]]), same=False)
    assert tiles.rows(0, tiles.total).tolist() == [
        [8, 10, 30, 0, 5, 40],
        [24, 10, 30, 0, 5, 40],
        [8, 10, 30, 32, 5, 40],
        [24, 10, 30, 32, 5, 40],
    ]


def test_cut__above_a_diagonal_bands_start_at_their_first_row() -> None:
    long = cut(np.array([[0, 600, 0, 600]]), same=True)
    band = 16 * ROWS
    tiles = long.rows(0, long.total)
    assert set(tiles[tiles[:, 0] >= band, 3].tolist()) == set(range(band, 600, COLUMNS))
    assert long.total < cut(np.array([[0, 600, 0, 600]]), same=False).total


def test_cut__nothing_to_do() -> None:
    assert cut(np.empty((0, 4), np.int64), same=True).total == 0
    assert cut(np.array([[3, 3, 0, 9], [0, 9, 4, 4]]), same=False).total == 0


def test_rows__any_part_of_the_list_is_the_same_tiles() -> None:
    tiles = cut(np.array([[0, 300, 0, 300], [0, 300, 300, 411], [300, 411, 300, 411]]), same=True)
    whole = tiles.rows(0, tiles.total)
    parts = [tiles.rows(start, min(7, tiles.total - start)) for start in range(0, tiles.total, 7)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert (whole[:, [0, 3]] % ALIGN == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=4), st.booleans())
@pytest.mark.parametrize("offset", [0, 5])
def test_cut__covers_every_listed_pair_once(offset: int, lengths: list[int], same: bool) -> None:
    bounds = offset + np.cumsum([0, *lengths])
    ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    pairs = np.array([[*a, *b] for p, a in enumerate(ranges) for b in ranges[p if same else 0 :]])
    tiles = cut(pairs, same)
    assert sorted(met(tiles.rows(0, tiles.total).numpy(), same)) == sorted(listed(pairs, same))

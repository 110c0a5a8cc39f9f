from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.pool.pieces import Piece, cut
from dm2at_ray.pool.sources.base import entry_table

MIB = 1 << 20


def listing(total: int, step: int = 10_000) -> Iterator[pa.Table]:
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        yield entry_table([f"file-{row // 100}" for row in rows], rows, None)


def sizes(total: int, mean: float, **options: int) -> list[int]:
    pieces = list(cut(listing(total), lambda *_: mean, **options))
    places = np.concatenate([piece.entries["row"].to_numpy() for piece in pieces])
    assert np.array_equal(places, np.arange(total))
    return [piece.entries.num_rows for piece in pieces]


def test_cut__shards_of_128_mib() -> None:
    # 12 GiB of 1 MiB each.
    assert sizes(12_288, MIB) == [128] * 96


def test_cut__a_small_source_makes_eight_shards_but_none_below_8_mib() -> None:
    assert sizes(64, 8 * MIB) == [8] * 8
    assert sizes(60_000, 512) == [16_384, 16_384, 16_384, 10_848]
    assert sizes(10, 1_000) == [10]


def test_cut__images_larger_than_a_shard_have_one_each() -> None:
    assert sizes(3, 300 * MIB) == [1, 1, 1]


def test_cut__pieces_go_across_windows_and_stay_below_the_most_rows() -> None:
    assert sizes(300_000, 1_000) == [134_218, 134_218, 31_564]
    assert sizes(300_000, 10, most_rows=100_000) == [100_000] * 3


def test_cut__follows_the_sizes_of_the_windows() -> None:
    means = {0: MIB / 64, 1: MIB / 8}
    pieces = list(cut(listing(2 * 65_536), lambda window, _: means[window]))
    # 1 GiB of the first window and 8 GiB of the second.
    assert [piece.entries.num_rows for piece in pieces] == [8_192] * 8 + [1_024] * 64


def test_cut__the_same_however_the_source_lists() -> None:
    one, other = (
        [piece.digest() for piece in cut(listing(70_000, step), lambda *_: 5_000.0)] for step in (70_000, 999)
    )
    assert one == other


@pytest.mark.parametrize(("column", "values"), [("uri", ["a", "c"]), ("row", [0, 2]), ("label", [1, None])])
def test_digest__tells_other_entries(column: str, values: list) -> None:
    def digest(**changed: list) -> str:
        plain = {"uri": ["a", "b"], "row": [0, 1], "label": [1, 2]} | changed
        return Piece(
            entry_table(plain["uri"], np.array(plain["row"]), pa.array(plain["label"])), 1.0
        ).digest()

    assert digest() == digest()
    assert digest() != digest(**{column: values})

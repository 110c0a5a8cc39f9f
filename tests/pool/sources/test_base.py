from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.errors import PoolError
from dm2at_ray.pool import SourceSpec, open_source
from dm2at_ray.pool.decode import Raw
from dm2at_ray.pool.sources.base import Source, Split, entry_table


class Numbered(Source):
    """``total`` entries named by their number, handed out ``step`` at a time; every third has no label."""

    kind = "numbered"
    has_test_split = False
    class_names = ["a"]  # noqa: RUF012

    def __init__(self, total: int, step: int, test_fraction: float = 0.25, seed: int = 0) -> None:
        super().__init__(SourceSpec(kind="numbered", path="here", test_fraction=test_fraction, seed=seed))
        self.total, self.step = total, step

    def entries(self, split: Split) -> Iterator[pa.Table]:
        assert split == "pool"
        for start in range(0, self.total, self.step):
            rows = np.arange(start, min(start + self.step, self.total))
            labels = pa.array([None if row % 3 == 0 else 0 for row in rows], pa.int64())
            yield entry_table(["x"] * len(rows), rows, labels)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        raise AssertionError("listing reads no image")


def _rows(source: Source, split: Split) -> list[int]:
    return [row for table in source.tables(split) for row in table.column("row").to_pylist()]


def test_tables__all_but_the_last_are_full() -> None:
    source = Numbered(total=150_000, step=7_001, test_fraction=0.0)
    tables = list(source.tables("pool"))
    assert [table.num_rows for table in tables] == [65_536, 65_536, 150_000 - 2 * 65_536]
    assert np.concatenate([table.column("row") for table in tables]).tolist() == list(range(150_000))
    assert tables[0].schema.names == ["uri", "row", "label"]


def test_tables__held_out_by_the_counter_based_draw_of_each_place() -> None:
    places = np.arange(1_000)
    drawn = uniform(5, 0, Stream.SPLIT, places, 1)[:, 0] < 0.25
    expected = [int(place) for place in places if drawn[place] and place % 3 != 0]
    source = Numbered(total=1_000, step=1_000, seed=5)
    assert _rows(source, "test") == expected
    assert _rows(source, "pool") == sorted(set(range(1_000)) - set(expected))


def test_tables__held_out_draw_is_the_same_however_the_entries_come() -> None:
    assert _rows(Numbered(1_000, step=1_000), "test") == _rows(Numbered(1_000, step=13), "test")


def test_tables__another_seed_holds_out_others() -> None:
    assert _rows(Numbered(1_000, step=100, seed=1), "test") != _rows(
        Numbered(1_000, step=100, seed=2), "test"
    )


def test_tables__nothing_held_out_names_the_fields_to_set() -> None:
    with pytest.raises(PoolError, match=r"data\.test_fraction 0\.0.*data\.test_path"):
        next(Numbered(100, step=10, test_fraction=0.0).tables("test"))


def test_open_source__unknown_kind_lists_the_known() -> None:
    with pytest.raises(
        PoolError, match=r"'imagenet'.*digits, fashion_mnist, image_folder, list, parquet, pool, tar"
    ):
        open_source(SourceSpec(kind="imagenet"))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, open_source
from dm2at_ray.pool.decode import UnreadableImage
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.sources.base import Split

from .conftest import pack_source, picture


def pool_source(directory: PoolDirectory, **fields: object) -> Source:
    return open_source(SourceSpec(kind="pool", path=directory.place.uri, **fields))  # type: ignore[arg-type]


def table_of(source: Source, split: Split = "pool") -> pa.Table:
    return pa.concat_tables(list(source.tables(split)))


@pytest.fixture
def digits(tmp_path: Path) -> PoolDirectory:
    """The digits, packed twice: every image of the second half is a duplicate of one of the first."""
    directory = PoolDirectory.at(str(tmp_path / "digits"))
    for _ in range(2):
        pack_source(directory, open_source(SourceSpec(kind="digits")), shard_bytes=60_000)
    return directory


def test_read__gives_what_the_source_gave(directory: PoolDirectory, source: Source, tmp_path: Path) -> None:
    pack_source(directory, source, shard_bytes=400)
    packed = pool_source(directory, test_path=directory.place.uri)
    entries = table_of(packed)
    shuffled = entries.take(np.random.default_rng(0).permutation(8))
    raws = packed.read(shuffled["uri"].to_pylist(), shuffled["row"].to_pylist())
    originals = dict(zip(entries["uri"].to_pylist(), entries["row"].to_pylist(), strict=False))
    assert len(originals) == 5  # four shards, and the one set aside
    whole = pa.concat_tables(list(source.entries("pool")))
    expected = source.read(whole["uri"].to_pylist(), whole["row"].to_pylist())
    by_place = {(e["uri"], e["row"]): place for place, e in enumerate(entries.to_pylist())}
    for entry, raw in zip(shuffled.to_pylist(), raws, strict=True):
        place = by_place[entry["uri"], entry["row"]]
        if place == 6:
            assert isinstance(raw, UnreadableImage)
            assert raw.reason == "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image"
        else:
            assert raw == expected[place]
    assert entries["label"].to_pylist() == whole["label"].to_pylist()


def test_read__does_not_need_the_originals(
    directory: PoolDirectory, source: Source, folder: Path, tmp_path: Path
) -> None:
    pack_source(directory, source)
    folder.rename(tmp_path / "elsewhere")
    Path(directory.place.path).rename(tmp_path / "moved")
    packed = pool_source(PoolDirectory.at(str(tmp_path / "moved")), test_path=str(tmp_path / "moved"))
    entries = table_of(packed)
    assert (
        sum(isinstance(r, bytes) for r in packed.read(entries["uri"].to_pylist(), entries["row"].to_pylist()))
        == 7
    )


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("split", ["pool", "test"])
def test_checked__is_what_tables_list(split: Split, held_out: bool, digits: PoolDirectory) -> None:
    packed = pool_source(digits, test_path=None if held_out else digits.place.uri)
    tables = packed.checked(split)
    assert tables is not None
    known = pa.concat_tables(list(tables))
    assert known.select(["uri", "row", "label"]).equals(table_of(packed, split))
    assert known.num_rows == packed.count(split)
    first: dict[bytes, int] = {}
    for place, row in enumerate(known.to_pylist()):
        original = first.setdefault(row["hash"], place)
        assert row["duplicate_of"] == (None if original == place else original)
    assert known["duplicate_of"].null_count < known.num_rows


def test_count__where_every_third_has_no_label(directory: PoolDirectory, tmp_path: Path) -> None:
    images = [picture(tmp_path / "picture.png", seed=0).read_bytes()] * 300
    labels = [None if place % 3 == 0 else 1 for place in range(300)]
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), tmp_path / "p.parquet")
    pack_source(directory, open_source(SourceSpec(kind="parquet", path=str(tmp_path / "p.parquet"))))
    packed = pool_source(directory)
    counts = [packed.count(split) for split in ("pool", "test")]  # type: ignore[arg-type]
    assert counts == [table_of(packed, split).num_rows for split in ("pool", "test")]  # type: ignore[arg-type]
    assert 20 < counts[1] < 60


def test_count__where_an_addition_has_no_labels(digits: PoolDirectory, source: Source) -> None:
    unlabeled = open_source(SourceSpec(kind="image_folder", path=source.spec.path + "/a"))  # type: ignore[operator]
    pack_source(digits, unlabeled, names=[str(digit) for digit in range(10)])
    packed = pool_source(digits)
    for split in ("pool", "test"):
        assert packed.count(split) == table_of(packed, split).num_rows  # type: ignore[arg-type]


def test_tables__grow_behind_what_was_there(digits: PoolDirectory) -> None:
    before = pool_source(digits)
    tables = {split: table_of(before, split) for split in ("pool", "test")}  # type: ignore[arg-type]
    size = before.size_hint()
    pack_source(digits, open_source(SourceSpec(kind="digits")))
    assert size == 2 * 1797
    # One that was opened before says that there is more, and lists what there was.
    assert before.size_hint() == 3 * 1797
    assert before.count("pool") == tables["pool"].num_rows
    after = pool_source(digits)
    for split, table in tables.items():
        grown = table_of(after, split)  # type: ignore[arg-type]
        assert grown.num_rows > table.num_rows
        assert grown.slice(0, table.num_rows).equals(table)


def test_class_names__of_another_test_pool_count_by_name(
    directory: PoolDirectory, source: Source, tmp_path: Path
) -> None:
    pack_source(directory, source)
    for index, name in enumerate(["b", "a", "b"]):
        picture(tmp_path / "test" / name / f"{index}.png", seed=90 + index)
    other = PoolDirectory.at(str(tmp_path / "test-pool"))
    spec = SourceSpec(kind="image_folder", path=str(tmp_path / "test"), class_names=("b", "a"))
    pack_source(other, open_source(spec))
    packed = pool_source(directory, test_path=other.place.uri)
    assert packed.class_names == ["a", "b"]
    entries = table_of(packed, "test")
    raws = packed.read(entries["uri"].to_pylist(), entries["row"].to_pylist())
    files = {path.read_bytes(): path.parent.name for path in (tmp_path / "test").rglob("*.png")}
    assert [["a", "b"][label] for label in entries["label"].to_pylist()] == [files[raw] for raw in raws]  # type: ignore[index]


def test_class_names__a_test_pool_of_other_classes(
    directory: PoolDirectory, source: Source, tmp_path: Path
) -> None:
    pack_source(directory, source)
    picture(tmp_path / "test" / "dog" / "0.png", seed=0)
    other = PoolDirectory.at(str(tmp_path / "test-pool"))
    pack_source(other, open_source(SourceSpec(kind="image_folder", path=str(tmp_path / "test"))))
    with pytest.raises(PoolError, match="class 'dog' is none of the pool's classes a, b"):
        table_of(pool_source(directory, test_path=other.place.uri), "test")


def test_pool__that_is_not_there(directory: PoolDirectory) -> None:
    with pytest.raises(PoolError, match="no pool there"):
        table_of(pool_source(directory))

"""Shards of a source listed one by one, each by a source object of its own, as workers do it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import SourceSpec, open_source
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.listing import ListedShard, Listing
from dm2at_ray.pool.sources import labels
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA
from dm2at_ray.pool.sources.shards import ShardedSource


def write_tar(path: Path, *labels: str | None) -> Path:
    """A shard of as many images, of no bytes, each with its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            members = {f"{number}.jpg": b"", f"{number}.cls": None if label is None else label.encode()}
            for name, data in members.items():
                if data is not None:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, labels: pa.Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array([b""] * len(labels), pa.binary()), "label": labels}), path)
    return path


def sharded(spec: SourceSpec) -> ShardedSource:
    source = open_source(spec)
    assert isinstance(source, ShardedSource)
    return source


def list_all(directory: PoolDirectory, spec: SourceSpec) -> list[ListedShard]:
    listing = Listing(directory, 0)
    shards = enumerate(sharded(spec).shards("pool"))
    # Backwards, because nobody says which task ends first.
    return [listing.list_shard(sharded(spec), "pool", *each) for each in reversed(list(shards))][::-1]


def assert_as_listed_in_one_go(directory: PoolDirectory, spec: SourceSpec) -> None:
    serial = sharded(spec)
    expected = pa.concat_tables(serial.entries("pool"))
    listed = list_all(directory, spec)
    assert sum(each.images for each in listed) == expected.num_rows
    source = sharded(spec)
    source.learn_classes((each.shard.path, each.labels) for each in listed)
    tables = [
        source.numbered("pool", shard.path, table)
        for index, shard in enumerate(source.shards("pool"))
        for table in Listing(directory, 0).tables(index)
    ]
    assert source.class_names == serial.class_names
    assert pa.concat_tables([ENTRY_SCHEMA.empty_table(), *tables]).equals(expected)


TEXTS = [["dog", "7"], ["2", "0", "1"], ["3", None, " 3", "-1"], [None], []]


@pytest.mark.parametrize("first", range(len(TEXTS)))
@pytest.mark.parametrize("given", [{}, {"label_column": None}, {"class_names": ("7", "dog", "cat", "x")}])
def test_list_shard__of_tar_is_as_in_one_go(
    first: int, given: dict, directory: PoolDirectory, tmp_path: Path
) -> None:
    """Which labels are numbers, all shards show together."""
    for number, labels_ in enumerate(TEXTS[first:]):
        write_tar(tmp_path / "in" / f"{number}.tar", *labels_)
    spec = SourceSpec(kind="tar", path=str(tmp_path / "in"), **given)
    assert_as_listed_in_one_go(directory, spec)


@pytest.mark.parametrize("strings", [False, True])
def test_list_shard__of_parquet_is_as_in_one_go(
    strings: bool, directory: PoolDirectory, tmp_path: Path
) -> None:
    for number, values in enumerate([[3, None, -1], [], [0] * 70_000, [None, None]]):
        column = pa.array(values, pa.int16())
        write_parquet(tmp_path / "in" / f"{number}.parquet", column.cast(pa.string()) if strings else column)
    assert_as_listed_in_one_go(directory, SourceSpec(kind="parquet", path=str(tmp_path / "in")))


def test_learn_classes__labels_of_two_kinds(directory: PoolDirectory, tmp_path: Path) -> None:
    write_parquet(tmp_path / "in" / "0.parquet", pa.array([1]))
    write_parquet(tmp_path / "in" / "1.parquet", pa.array(["dog"]))
    spec = SourceSpec(kind="parquet", path=str(tmp_path / "in"))
    listed = list_all(directory, spec)
    with pytest.raises(PoolError) as learned:
        sharded(spec).learn_classes((each.shard.path, each.labels) for each in listed)
    with pytest.raises(PoolError) as asked:
        _ = sharded(spec).class_names
    assert str(learned.value) == str(asked.value)
    assert "not int labels as in the pool's first file, in data.path" in str(asked.value)


def test_list_shard__too_many_labels_show(
    directory: PoolDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("dm2at_ray.pool.listing", "dm2at_ray.pool.sources.labels"):
        monkeypatch.setattr(f"{module}.MAX_CLASSES", 3)
    assert labels.MAX_CLASSES == 3
    spec = SourceSpec(kind="tar", path=str(write_tar(tmp_path / "in.tar", *"abcdefgh")))
    (listed,) = list_all(directory, spec)
    with pytest.raises(PoolError, match="more than 3 classes"):
        sharded(spec).learn_classes([(listed.shard.path, listed.labels)])


def test_list_shard__goes_on_from_what_is_listed_but_for_changed_shards(
    directory: PoolDirectory, tmp_path: Path
) -> None:
    spec = SourceSpec(kind="tar", path=str(tmp_path / "in"))
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", "a", "b")
    first = list_all(directory, spec)
    build = Path(directory.place.path) / "build"
    before = {path.name: path.stat().st_mtime_ns for path in build.iterdir()}
    assert sorted(before) == [f"listing-0-0000{number}.parquet" for number in range(3)]
    os.utime(write_tar(tmp_path / "in" / "1.tar", "a", "c"), ns=(0, 1))
    again = list_all(directory, spec)
    after = {path.name: path.stat().st_mtime_ns for path in build.iterdir()}
    assert [name for name in sorted(after) if after[name] != before[name]] == ["listing-0-00001.parquet"]
    assert [sorted(each.labels.to_pylist()) for each in again] == [["a", "b"], ["a", "c"], ["a", "b"]]
    assert first[0] == again[0]


def test_list_shard__one_that_cannot_be_read_leaves_nothing(directory: PoolDirectory, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_text("no tar")
    with pytest.raises(PoolError, match="not a tar file"):
        list_all(directory, SourceSpec(kind="tar", path=str(tmp_path / "in.tar")))
    assert not Path(directory.place.path).exists()

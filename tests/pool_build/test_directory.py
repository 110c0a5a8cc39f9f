from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source
from dm2at_ray.pool.catalog import Catalog, Part
from dm2at_ray.pool.directory import PoolDirectory, part_file
from dm2at_ray.pool.location import Location

from .conftest import contents, pack_source


def test_catalog__is_what_was_written(directory: PoolDirectory, source: Source) -> None:
    catalog = pack_source(directory, source)
    assert catalog is not None
    assert Catalog.from_json(catalog.to_json()) == catalog


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting"),
        ('{"format": 2}', "format 2, not 1"),
        ('{"format": 1}', "a field is missing or unknown: 'class_names'"),
    ],
)
def test_catalog__that_cannot_be_read(text: str, words: str, directory: PoolDirectory) -> None:
    Path(directory.place.path).mkdir()
    (Path(directory.place.path) / "pool.json").write_text(text)
    with pytest.raises(PoolError, match=words):
        directory.catalog()


def test_catalog__of_no_pool(directory: PoolDirectory) -> None:
    with pytest.raises(PoolError, match=r"no pool there \(no pool.json\); make one by `dm2at pool build`"):
        directory.catalog()


def test_part_of__ids_that_there_are_not() -> None:
    catalog = Catalog(parts=(Part(0, 5, 0, 0, 0),))
    for sample_id in (-1, 5):
        with pytest.raises(ValueError, match=r"must lie in \[0, 5\)"):
            catalog.part_of(sample_id)


def test_parts__of_a_range_of_ids(directory: PoolDirectory, source: Source) -> None:
    pack_source(directory, source)
    catalog = pack_source(directory, source)
    assert catalog is not None

    def ids(start: int, stop: int) -> list[list[int]]:
        tables = directory.parts(catalog, ["sample_id"], start, stop)
        return [table["sample_id"].to_pylist() for table in tables]

    assert ids(0, 16) == [list(range(8)), list(range(8, 16))]
    assert ids(6, 10) == [[6, 7], [8, 9]]
    assert ids(8, 9) == [[8]]
    assert ids(3, 3) == ids(16, 16) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_parts__that_are_broken(damage: str, directory: PoolDirectory, source: Source) -> None:
    catalog = pack_source(directory, source)
    assert catalog is not None
    path = Path(directory.place.path) / part_file(0)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        directory.write_part(0, next(directory.parts(catalog)).slice(1))
    with pytest.raises(PoolError, match=r"manifest/part-00000.parquet: .*; restore the file"):
        list(directory.parts(catalog))


def test_directory__on_another_filesystem(source: Source, tmp_path: Path) -> None:
    """One that is not local: where files are not renamed into their place, as on an object store."""
    (tmp_path / "bucket").mkdir()
    elsewhere = fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())
    directory = PoolDirectory(Location(elsewhere, "pool", "mock://pool"))
    local = PoolDirectory.at(str(tmp_path / "local"))
    assert pack_source(directory, source) == pack_source(local, source)
    assert contents(tmp_path / "bucket" / "pool") == contents(tmp_path / "local")

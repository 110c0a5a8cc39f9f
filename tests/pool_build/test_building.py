from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, open_source
from dm2at_ray.pool.building import Building
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.pieces import cut

from .conftest import contents, pack_source, picture

SMALL = 400  # Two images a shard.


def manifest(directory: PoolDirectory) -> list[dict]:
    return pa.concat_tables(list(directory.parts(directory.catalog()))).to_pylist()


def test_finish__names_all_that_counts(directory: PoolDirectory, source: Source, folder: Path) -> None:
    catalog = pack_source(directory, source, shard_bytes=SMALL)
    assert catalog == directory.catalog()
    assert catalog is not None
    assert (catalog.size, catalog.class_names) == (8, ("a", "b"))
    (part,) = catalog.parts
    assert (part.labeled, part.rejected, part.duplicates) == (8, 1, 1)
    assert [(shard.first_id, shard.ids, shard.rows) for shard in catalog.shards] == [
        (0, 2, 2), (2, 2, 2), (4, 2, 2), (6, 2, 1),
    ]  # fmt: skip
    rows = manifest(directory)
    assert [row["sample_id"] for row in rows] == list(range(8))
    assert {row["sample_id"]: row["duplicate_of"] for row in rows if row["duplicate_of"] is not None} == {
        5: 2
    }
    assert [row["origin"] for row in rows] == [f"{folder}/{c}/{i}.png" for c in "ab" for i in range(4)]
    assert sorted(contents(Path(directory.place.path))) == [
        "manifest/part-00000.parquet", "pool.json", *(f"shards/0000{shard}.parquet" for shard in range(4)),
    ]  # fmt: skip


@pytest.mark.parametrize("piece", [0, 1, 3])
def test_begin__goes_on_where_it_was_cut_off(
    piece: int, directory: PoolDirectory, source: Source, tmp_path: Path
) -> None:
    undisturbed = PoolDirectory.at(str(tmp_path / "undisturbed"))
    pack_source(undisturbed, source, shard_bytes=SMALL)
    assert pack_source(directory, source, shard_bytes=SMALL, stop_before=piece) is None
    assert directory.find_catalog() is None
    with pytest.raises(PoolError, match="its build is not done; run the same `dm2at pool build` again"):
        directory.catalog()
    # A shard that was not yet noted as whole is written again.
    broken = Path(directory.place.path) / "shards" / f"0000{piece}.parquet"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"cut off")
    broken.with_name(f".{broken.name}.1.tmp").write_bytes(b"left by a killed writer")
    pack_source(directory, source, shard_bytes=SMALL)
    assert contents(Path(directory.place.path)) == contents(Path(undisturbed.place.path))


def test_begin__whole_shards_are_not_packed_again(directory: PoolDirectory, source: Source) -> None:
    pack_source(directory, source, shard_bytes=SMALL, stop_before=2)
    written = {path: path.stat().st_mtime_ns for path in Path(directory.place.path).rglob("0000[01].parquet")}
    assert len(written) == 2
    pack_source(directory, source, shard_bytes=SMALL)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_begin__refuses_other_arguments(directory: PoolDirectory, source: Source) -> None:
    pack_source(directory, source, stop_before=0)
    with pytest.raises(PoolError) as error:
        Building.begin(directory, {"sources": ["elsewhere"], "split": "pool"}, Catalog())
    assert "\n" not in str(error.value)
    assert "packing was begun with other arguments (other sources, split)" in str(error.value)


def test_is_whole__refuses_a_source_that_has_changed(
    directory: PoolDirectory, source: Source, folder: Path
) -> None:
    pack_source(directory, source, shard_bytes=SMALL, stop_before=2)
    picture(folder / "a" / "00.png", seed=77)
    with pytest.raises(PoolError, match="lists other images than when packing was begun"):
        pack_source(directory, open_source(source.spec), shard_bytes=SMALL)


def test_add__appends_and_knows_what_was_there(
    directory: PoolDirectory, source: Source, folder: Path, tmp_path: Path
) -> None:
    pack_source(directory, source, shard_bytes=SMALL)
    before, rows = contents(Path(directory.place.path)), manifest(directory)
    more = tmp_path / "more"
    picture(more / "c" / "0.png", seed=50)
    shutil.copy(folder / "a" / "2.png", more / "c" / "1.png")
    shutil.copy(more / "c" / "0.png", more / "c" / "2.png")
    addition = open_source(SourceSpec(kind="image_folder", path=str(more), class_names=("a", "b", "c")))
    catalog = pack_source(directory, addition, shard_bytes=SMALL)
    assert catalog is not None
    assert (catalog.size, catalog.class_names) == (11, ("a", "b", "c"))
    assert [(part.first_id, part.rows, part.duplicates) for part in catalog.parts] == [(0, 8, 1), (8, 3, 2)]
    assert [entry["first_id"] for entry in catalog.additions] == [0, 8]
    after = contents(Path(directory.place.path))
    assert {name: after[name] for name in before if name != "pool.json"} == {
        name: data for name, data in before.items() if name != "pool.json"
    }
    found = manifest(directory)
    assert found[:8] == rows
    assert [row["duplicate_of"] for row in found[8:]] == [None, 2, 8]
    assert [row["label"] for row in found[8:]] == [2, 2, 2]


def test_begin__what_was_done_but_not_cleared_away_does_not_count(
    directory: PoolDirectory, source: Source, tmp_path: Path
) -> None:
    pack_source(directory, source, shard_bytes=SMALL, stop_before=3)
    leftover = tmp_path / "leftover"
    shutil.copytree(Path(directory.place.path) / "build", leftover)
    pack_source(directory, source, shard_bytes=SMALL)
    shutil.copytree(leftover, Path(directory.place.path) / "build")
    # Killed between pool.json and the end: the same images again are an addition.
    catalog = pack_source(directory, source, shard_bytes=SMALL)
    assert catalog is not None
    assert (catalog.size, catalog.parts[1].duplicates) == (16, 7)


def test_finish__parts_have_65536_rows_however_the_pieces_are_cut(directory: PoolDirectory) -> None:
    total = 70_000
    building = Building.begin(directory, {}, Catalog())
    from dm2at_ray.pool.building import note_whole
    from dm2at_ray.pool.directory import MANIFEST_SCHEMA
    from dm2at_ray.pool.sources.base import entry_table

    entries = entry_table(["x"] * total, np.arange(total), None)
    first_id = 0
    for index, piece in enumerate(cut(iter([entries]), lambda *_: 1_000.0, shard_bytes=9_999_999)):
        ids = np.arange(first_id, first_id + piece.entries.num_rows)
        columns = {
            "sample_id": ids, "uri": ["s"] * len(ids), "row": ids - first_id, "label": ids % 3,
            "status": ["ok"] * len(ids), "reason": [None] * len(ids), "size": ids, "origin": ["x"] * len(ids),
            "hash": [int(sample_id % 69_999).to_bytes(16, "big") for sample_id in ids],
            "duplicate_of": [None] * len(ids), "origin_row": ids,
        }  # fmt: skip
        note_whole(
            directory, index, piece, pa.table(columns).select(MANIFEST_SCHEMA.names).cast(MANIFEST_SCHEMA)
        )
        first_id += len(ids)
    catalog = building.finish(index + 1, ["a", "b", "c"], {})
    assert [(part.first_id, part.rows) for part in catalog.parts] == [(0, 65_536), (65_536, 4_464)]
    assert catalog.parts[1].duplicates == 1
    (last,) = directory.parts(catalog, start=69_998)
    assert last.select(["sample_id", "duplicate_of"]).to_pylist() == [
        {"sample_id": 69_998, "duplicate_of": None},
        {"sample_id": 69_999, "duplicate_of": 0},
    ]


def test_finish__of_nothing(directory: PoolDirectory) -> None:
    with pytest.raises(PoolError, match="the sources list no images"):
        Building.begin(directory, {}, Catalog()).finish(0, None, {})

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import (
    PART_ROWS,
    Counts,
    Manifest,
    SourceSpec,
    check_part,
    duplicates,
    open_source,
    part_name,
)
from dm2at_ray.pool import manifest as manifest_module
from dm2at_ray.pool.content import content_hash
from dm2at_ray.pool.manifest import DUPLICATES_SCHEMA, SCHEMA

from .conftest import encode, pattern


def hash_of(sample_id: int) -> int:
    """What an image shows: every seventh shows what the one of half its id does."""
    return hash_of(sample_id // 2) if sample_id % 7 == 6 else sample_id


def _write_parts(directory: Path, total: int) -> None:
    """A manifest: id i lies at row 10 * i, has label i % 7 (none for i % 5 == 0), every 1,000th is bad."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, start in enumerate(range(0, total, PART_ROWS)):
        ids = np.arange(start, min(start + PART_ROWS, total))
        bad = ids % 1_000 == 999
        columns = {
            "sample_id": ids,
            "uri": [f"file-{i % 3}" for i in ids],
            "row": ids * 10,
            "label": pa.array(ids % 7, mask=ids % 5 == 0),
            "status": np.where(bad, "rejected", "ok"),
            "reason": pa.array(np.where(bad, "empty file", ""), mask=~bad),
            "hash": [
                None if b else content_hash(str(hash_of(int(i))).encode())
                for i, b in zip(ids, bad, strict=True)
            ],
        }
        pq.write_table(pa.table(columns, schema=SCHEMA), directory / part_name(index))


def test_manifest__rows_come_in_the_order_of_the_ids(tmp_path: Path) -> None:
    _write_parts(tmp_path, total=PART_ROWS + 100)
    manifest = Manifest.open(fs.LocalFileSystem(), str(tmp_path))
    assert (manifest.size, manifest.num_parts) == (PART_ROWS + 100, 2)
    ids = np.array([PART_ROWS + 99, 3, PART_ROWS, 0, 3, PART_ROWS - 1])
    rows = manifest.rows(ids)
    assert rows.column("sample_id").to_pylist() == ids.tolist()
    assert rows.column("row").to_pylist() == (ids * 10).tolist()
    assert manifest.rows(np.array([], dtype=np.int64)).num_rows == 0
    for outside in (-1, manifest.size):
        with pytest.raises(ValueError, match="sample ids must lie in"):
            manifest.rows(np.array([outside]))


def test_manifest__loads_only_the_parts_it_needs(tmp_path: Path) -> None:
    _write_parts(tmp_path, total=2 * PART_ROWS + 1)
    manifest = Manifest.from_uri(tmp_path.as_uri())
    (tmp_path / part_name(1)).unlink()  # its footer has been read; its rows are never asked for
    assert manifest.rows(np.array([0, 2 * PART_ROWS])).column("row").to_pylist() == [0, 20 * PART_ROWS]


def test_manifest__rejected_and_counts(tmp_path: Path) -> None:
    total = PART_ROWS + 5_000
    _write_parts(tmp_path / "k=v", total)  # a folder name that Arrow could take for a partition
    manifest = Manifest.from_uri(str(tmp_path / "k=v"))
    rejected = manifest.rejected()
    assert rejected.column("sample_id").to_pylist() == list(range(999, total, 1_000))
    assert set(rejected.column("reason").to_pylist()) == {"empty file"}
    labeled = sum(i % 1_000 != 999 and i % 5 != 0 for i in range(total))
    assert manifest.counts() == Counts(total=total, ok=total - 70, rejected=70, labeled=labeled)


def test_manifest__missing_or_incomplete(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"pool manifest .*; delete the folder"):
        Manifest.from_uri(str(tmp_path / "nowhere"))
    with pytest.raises(PoolError, match="no parts there"):
        Manifest.from_uri(str(tmp_path))
    _write_parts(tmp_path, total=PART_ROWS + 10)
    (tmp_path / part_name(0)).rename(tmp_path / part_name(2))
    with pytest.raises(PoolError, match=part_name(0)):
        Manifest.from_uri(str(tmp_path))
    (tmp_path / part_name(1)).rename(tmp_path / part_name(0))
    (tmp_path / part_name(2)).rename(tmp_path / part_name(1))
    with pytest.raises(PoolError, match=r"part-00000\.parquet has 10 rows"):
        Manifest.from_uri(str(tmp_path))


def test_check_part__sets_aside_what_is_broken(tmp_path: Path) -> None:
    png = encode(pattern(0), "PNG")
    files = {"a.png": png, "b.png": png[:-40], "c.png": b"", "d.jpg": b"just some words", "e.png": png}
    (tmp_path / "cat").mkdir()
    for name, data in files.items():
        (tmp_path / "cat" / name).write_bytes(data)
    source = open_source(SourceSpec(kind="image_folder", path=str(tmp_path), test_fraction=0.0))
    (table,) = source.tables("pool")
    (tmp_path / "cat" / "e.png").unlink()
    part = check_part(source, table, first_id=100, image_size=8, channels=3)
    assert part.schema == SCHEMA
    assert part.column("sample_id").to_pylist() == [100, 101, 102, 103, 104]
    assert part.column("status").to_pylist() == ["ok"] + ["rejected"] * 4
    assert part.column("reason").to_pylist() == [
        None,
        "truncated PNG",
        "empty file",
        "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image",
        "no such file",
    ]
    assert part.column("label").to_pylist() == [0] * 5


def test_check_part__of_the_digits(build_manifest: Callable[..., Manifest]) -> None:
    source = open_source(SourceSpec(kind="digits", test_fraction=0.0))
    manifest = build_manifest(source, 8, 1)
    assert manifest.counts() == Counts(total=1_797, ok=1_797, rejected=0, labeled=1_797)
    assert manifest.rejected().num_rows == 0


@pytest.mark.parametrize("at_once", [1_000_000, 30_000])
def test_find_duplicates__are_those_of_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    total = PART_ROWS + 5_000
    _write_parts(tmp_path, total)
    monkeypatch.setattr(
        manifest_module, "find_duplicates", partial(duplicates.find_duplicates, at_once=at_once)
    )
    first: dict[int, int] = {}
    expected = []
    for sample_id in range(total):
        if sample_id % 1_000 == 999:
            continue  # it cannot be read
        original = first.setdefault(hash_of(sample_id), sample_id)
        if original != sample_id:
            expected.append((sample_id, original))
    found = Manifest.from_uri(str(tmp_path)).find_duplicates()
    assert found.schema.equals(DUPLICATES_SCHEMA)
    assert len(expected) > 5_000
    assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == expected


def test_duplicates__of_a_manifest_without_any_word_of_them(tmp_path: Path) -> None:
    _write_parts(tmp_path, 10)
    assert Manifest.from_uri(str(tmp_path)).duplicates().num_rows == 0


def test_content_hash__tells_shapes_and_types_apart() -> None:
    pixels = np.arange(12, dtype=np.uint8)
    alike = [pixels.reshape(3, 4), pixels.reshape(4, 3), pixels.reshape(2, 2, 3), pixels.tobytes()]
    assert len({content_hash(raw) for raw in alike}) == 4
    assert content_hash(pixels.reshape(3, 4)) == content_hash(pixels.reshape(3, 4, 1))
    assert content_hash(pixels.reshape(3, 4)) == content_hash(np.asfortranarray(pixels.reshape(3, 4)))
    assert len(content_hash(b"")) == 16

"""`dm2at pool` on the session's cluster: build, be killed, go on, add, check; and a run on what was built."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dm2at_ray import Config, run
from dm2at_ray.pool import Manifest, SourceSpec, open_source
from dm2at_ray.pool.content import content_hash
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool_build import packing_lease
from dm2at_ray.store import RunDirectory

from .commands import Command, tiny_config
from .test_sources import COLORS, break_three, write_folder

SECONDS = 240
DIGITS = 1797


@pytest.fixture(autouse=True)
def come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands leave their folder; the next test starts where this one did."""
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(folder: Path) -> list[dict[str, Any]]:
    directory = PoolDirectory.at(str(folder))
    return pa.concat_tables(list(directory.parts(directory.catalog()))).to_pylist()


def uncompressed(seed: int, size: int = 512) -> bytes:
    """A BMP of noise, 768 kB."""
    pixels = np.random.default_rng(seed).integers(0, 256, size * size * 3).astype(np.uint8).tobytes()
    sizes = struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54)
    return b"BM" + sizes + struct.pack("<IiiHHIIiiII", 40, size, size, 1, 24, 0, 0, 0, 0, 0, 0) + pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """63 images of three colours: three of them broken, two the twins of others."""
    place = write_folder(tmp_path / "images", each=20)
    break_three(place)
    shutil.copy(place / "blue" / "003.png", place / "green" / "010.png")
    shutil.copy(place / "blue" / "003.png", place / "red" / "011.png")
    return place


@pytest.mark.ray
def test_build__several_sources_in_one_pool(
    joined: str, dm2at: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    code, stdout, stderr = dm2at("pool", "build", "digits:", "images", "pool")
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0].startswith("pack       1,860 images in ")
    assert lines[2:] == [
        f"pool: {tmp_path}/pool",
        "images: 1,860, of them 3 set aside, 2 duplicates, 1,860 with a label",
        "labels: 13 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)",
        lines[5],
        "ids from 0: 1,860 images of digits, " + f"image_folder {folder}",
    ]
    rows = manifest(tmp_path / "pool")
    assert [row["sample_id"] for row in rows] == list(range(DIGITS + 63))
    # blue is class 10: its 20 images and the truncated one; then green, with the empty one in front.
    assert [row["label"] for row in rows[DIGITS:]] == [10] * 21 + [11] * 21 + [12] * 21
    aside = {Path(row["origin"]).name: row["reason"] for row in rows if row["status"] == "rejected"}
    assert aside == {
        "truncated.png": "truncated PNG",
        "empty.png": "empty file",
        "words.jpg": "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image",
    }
    twins = [row for row in rows if row["hash"] == content_hash((folder / "blue" / "003.png").read_bytes())]
    assert [row["duplicate_of"] for row in twins] == [None, twins[0]["sample_id"], twins[0]["sample_id"]]
    for row in rows[DIGITS:]:
        if row["status"] == "ok":
            image = pq.read_table(tmp_path / "pool" / row["uri"])["image"][row["row"]].as_py()
            assert image == Path(row["origin"]).read_bytes()
    before = contents(tmp_path / "pool")
    assert sorted(before) == [
        "manifest/part-00000.parquet",
        "pool.json",
        "shards/00000.parquet",
        "shards/00001.parquet",
    ]
    os.chdir(tmp_path)
    again = dm2at("pool", "build", "digits:", "images", "pool")
    assert again.code == 0
    assert again.stdout.startswith(f"{tmp_path}/pool is packed already\n")
    assert contents(tmp_path / "pool") == before


def write_shards(place: Path, shards: int, images: int) -> Path:
    """Tar shards of tiny PNGs, each with its class beside it; all digits but for one in the last."""
    place.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(place / f"{shard:03d}.tar", "w") as tar:
            for number in range(images):
                pixels = np.full((4, 4, 3), shard * images + number, np.uint32).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                label = "dog" if (shard, number) == (shards - 1, 0) else str(number % 3)
                for name, data in ((f"{number}.png", buffer.getvalue()), (f"{number}.cls", label.encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return place


@pytest.mark.ray
def test_build__shards_are_listed_side_by_side_as_in_one_go(
    joined: str, dm2at: Callable[..., Any], tmp_path: Path
) -> None:
    sources = [write_shards(tmp_path / "tars", 9, 20), tmp_path / "tables"]
    sources[1].mkdir()
    for number in range(4):
        table = pa.table({"image": [uncompressed(seed, 8) for seed in range(5)], "label": [number] * 5})
        pq.write_table(table, sources[1] / f"{number}.parquet")
    code, stdout, stderr = dm2at("pool", "build", *sources, "pool")
    assert (code, stderr) == (0, "")
    assert stdout.startswith("list       200 images in ")
    rows = manifest(tmp_path / "pool")
    catalog = PoolDirectory.at(str(tmp_path / "pool")).catalog()
    expected = []
    for kind, place in zip(("tar", "parquet"), sources, strict=True):
        source = open_source(SourceSpec(kind=kind, path=str(place)))
        names = source.class_names
        assert names is not None
        expected += [
            (image["uri"], image["row"], names[image["label"]])
            for table in source.entries("pool")
            for image in table.to_pylist()
        ]
    assert catalog.class_names == ("0", "1", "2", "dog", "3")
    assert [(row["origin"], row["origin_row"], catalog.class_names[row["label"]]) for row in rows] == expected
    assert [row["sample_id"] for row in rows] == list(range(200))


@pytest.mark.ray
def test_build__killed_in_the_middle_goes_on_to_the_same_bytes(
    joined: str, dm2at: Callable[..., Any], tmp_path: Path
) -> None:
    images = [uncompressed(seed) for seed in range(150)]
    images[70], images[90] = b"cut off", images[3]
    labels = [seed % 7 for seed in range(150)]
    pq.write_table(
        pa.table({"image": images, "label": labels}), tmp_path / "images.parquet", row_group_size=8
    )
    arguments = ("pool", "build", tmp_path / "images.parquet")
    assert dm2at(*arguments, tmp_path / "undisturbed").code == 0
    pool = tmp_path / "pool"
    with Command(*arguments, pool, folder=tmp_path, address=joined) as command:
        deadline = time.monotonic() + SECONDS
        while not list(pool.glob("build/piece-*.parquet")):
            assert command.process.poll() is None, command.stderr
            assert time.monotonic() < deadline
        command.process.kill()
        command.end(10)
    assert not (pool / "pool.json").exists()
    assert len(list(pool.glob("build/piece-*.parquet"))) < 8
    other = dm2at("pool", "build", "digits:", pool)
    assert other.code == 2
    assert "packing was begun with other arguments (other sources)" in other.stderr
    with Command(*arguments, pool, folder=tmp_path, address=joined) as command:
        assert command.end(SECONDS) == 0, command.stderr
    assert contents(pool) == contents(tmp_path / "undisturbed")
    rows = manifest(pool)
    assert [row["origin_row"] for row in rows] == list(range(150))
    assert [row["label"] for row in rows] == labels
    assert [row["sample_id"] for row in rows if row["status"] == "rejected"] == [70]
    assert {row["sample_id"]: row["duplicate_of"] for row in rows if row["duplicate_of"] is not None} == {
        90: 3
    }
    assert len(PoolDirectory.at(str(pool)).catalog().shards) == 8


@pytest.mark.ray
def test_add__appends_and_ids_stay(
    joined: str, dm2at: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    assert dm2at("pool", "build", folder, pool).code == 0
    before, rows = contents(pool), manifest(pool)
    more = tmp_path / "more"
    (more / "violet").mkdir(parents=True)
    (more / "red").mkdir()
    shutil.copy(folder / "blue" / "003.png", more / "violet" / "known.png")
    (more / "red" / "new.png").write_bytes(uncompressed(0, size=16))
    with packing_lease(PoolDirectory.at(str(pool))).held():
        refused = dm2at("pool", "add", pool, more)
    assert refused.code == 2
    assert refused.stderr.startswith(f"pool {str(pool)!r}".replace("'", "") + f": process {os.getpid()} on ")
    assert contents(pool) == before
    code, stdout, _ = dm2at("pool", "add", pool, more, "digits:")
    assert code == 0
    assert stdout.splitlines()[-1] == f"ids from 63: {2 + DIGITS:,} images of image_folder {more}, digits"
    after = manifest(pool)
    assert after[:63] == rows
    kept = {name: data for name, data in before.items() if name != "pool.json"}
    assert {name: data for name, data in contents(pool).items() if name in kept} == kept
    catalog = PoolDirectory.at(str(pool)).catalog()
    assert catalog.class_names == (*COLORS, "violet", *map(str, range(10)))
    assert [row["label"] for row in after[63:66]] == [2, 3, 4]
    twin = next(row["sample_id"] for row in rows if row["origin"].endswith("blue/003.png"))
    assert [row["duplicate_of"] for row in after[63:66]] == [None, twin, None]
    assert dm2at("pool", "check", pool).code == 0


@pytest.mark.ray
def test_check__finds_a_flipped_byte(
    joined: str, dm2at: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    assert dm2at("pool", "build", folder, pool).code == 0
    whole = dm2at("pool", "check", pool)
    assert (whole.code, whole.stdout.splitlines()[-1]) == (
        0,
        "63 images (3 were set aside when they were packed), 0 broken",
    )
    row = next(row for row in manifest(pool) if row["origin"].endswith("green/007.png"))
    shard = pool / row["uri"]
    data = bytearray(shard.read_bytes())
    image = (folder / "green" / "007.png").read_bytes()
    data[data.index(image) + len(image) // 2] ^= 1
    shard.write_bytes(data)
    code, stdout, _ = dm2at("pool", "check", pool, "--json")
    assert code == 1
    assert json.loads(stdout) == {
        "images": 63,
        "set_aside": 3,
        "broken": [
            {
                "sample_id": row["sample_id"],
                "uri": str(shard),
                "row": row["row"],
                "reason": "other content than was packed",
            }
        ],
    }
    shard.unlink()
    code, stdout, _ = dm2at("pool", "check", pool)
    assert code == 1
    assert stdout.splitlines()[1] == f"sample 0: {shard}, row 0: no such file"
    assert stdout.splitlines()[-1] == "63 images (3 were set aside when they were packed), 60 broken"


@pytest.mark.ray
def test_check__of_a_source(joined: str, dm2at: Callable[..., Any], folder: Path) -> None:
    code, stdout, _ = dm2at("pool", "check", folder, "--json")
    assert code == 1
    found = json.loads(stdout)
    assert found["images"] == 63
    assert [(Path(image["uri"]).name, image["reason"]) for image in found["broken"]] == [
        ("truncated.png", "truncated PNG"),
        ("empty.png", "empty file"),
        ("words.jpg", "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image"),
    ]
    assert dm2at("pool", "check", folder / "blue").code == 1
    (folder / "blue" / "truncated.png").unlink()
    assert dm2at("pool", "check", folder / "blue").code == 0


@pytest.mark.ray
def test_run__on_a_built_pool_has_its_ids(
    joined: str, dm2at: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    assert dm2at("pool", "build", folder, tmp_path / "pool", "--image-size", 12, "--channels", 3).code == 0
    write_folder(tmp_path / "others", each=4)
    assert dm2at("pool", "build", tmp_path / "others", tmp_path / "test").code == 0
    config = tiny_config(
        data={
            "source": "pool",
            "path": str(tmp_path / "pool"),
            "test_path": str(tmp_path / "test"),
            "max_rejected_fraction": 0.05,
        },
        query={"strategy": "random", "initial": 10, "size": 10},
        stop={"rounds": 0},
        monitoring={"enabled": False},
    )
    result = run(Config.from_mapping(config), tmp_path / "run")
    assert [metrics["labeled"] for metrics in result.rounds] == [10]
    run_directory = RunDirectory(str(tmp_path / "run"))
    files = run_directory.manifest_files("pool")
    listed = Manifest.open(files.filesystem, files.root)
    assert listed.rejected()["sample_id"].to_pylist() == [
        row["sample_id"] for row in manifest(tmp_path / "pool") if row["status"] == "rejected"
    ]
    labels = run_directory.round(0).labels().to_pylist()
    rows = manifest(tmp_path / "pool")
    folders = [Path(rows[answer["sample_id"]]["origin"]).parent.name for answer in labels]
    assert [list(COLORS)[answer["label"]] for answer in labels] == folders
    spec = SourceSpec(kind="pool", path=str(tmp_path / "pool"), test_path=str(tmp_path / "test"))
    assert open_source(spec).count("test") == result.rounds[0]["evaluated"] == 12

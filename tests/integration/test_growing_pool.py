"""A packed pool that is added to while a run on it waits for people: the next round has the additions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from dm2at_ray.actor import DriverActor
from dm2at_ray.driver import Ending
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.pool import Manifest
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_column

from .commands import Command
from .runs import play, tiny_config

SECONDS = 240
OLD, ADDED, TWICE = 900, 500, 25


def pack(command: str, *arguments: object, folder: Path, address: str) -> None:
    with Command("pool", command, *arguments, folder=folder, address=address) as process:
        assert process.end(SECONDS) == 0, process.stdout + process.stderr


def write_images(path: Path, rows: np.ndarray) -> Path:
    digits = load_digits()
    pixels = np.rint(digits.images[rows] * 255 / 16).astype(np.uint8)[..., None]
    labels = pa.array(digits.target[rows], pa.int64())
    pq.write_table(pa.table({"image": tensor_column(pixels), "label": labels}), path)
    return path


def manifest_of(run: RunDirectory) -> Manifest:
    files = run.manifest_files("pool")
    return Manifest.open(files.filesystem, files.root)


@pytest.mark.ray
@pytest.mark.usefixtures("joined")
def test_run__takes_up_what_is_added_in_its_next_round(tmp_path: Path, ray_address: str) -> None:
    pool = tmp_path / "pool"
    old = write_images(tmp_path / "old.parquet", np.arange(OLD))
    # Some of what is added is there already.
    new = write_images(tmp_path / "new.parquet", np.r_[OLD : OLD + ADDED, :TWICE])
    test = write_images(tmp_path / "test.parquet", np.arange(OLD + ADDED, len(load_digits().images)))
    pack("build", old, pool, folder=tmp_path, address=ray_address)
    pack("build", test, tmp_path / "held_out", folder=tmp_path, address=ray_address)
    config = tiny_config(
        data={
            "source": "pool",
            "path": str(pool),
            "test_path": str(tmp_path / "held_out"),
            "image_size": 8,
            "channels": 1,
        },
        query={"oracle": "files"},
        training={"workers": 1, "epochs": 2},
    )
    run = RunDirectory(str(tmp_path / "run"))
    assert ending(play(config, tmp_path / "run", DriverActor)).phase == "awaiting_labels"
    before = manifest_of(run).rows(np.arange(OLD))
    assert manifest_of(run).size == OLD
    answer(run, 0)
    pack("add", pool, new, folder=tmp_path, address=ray_address)
    assert ending(play(config, tmp_path / "run", DriverActor)).phase == "awaiting_labels"
    manifest = manifest_of(run)
    assert manifest.size == OLD + ADDED + TWICE
    assert manifest.rows(np.arange(OLD)).equals(before), "ids stay"
    doubles = manifest.duplicates()
    assert doubles["sample_id"].to_pylist() == list(range(OLD + ADDED, OLD + ADDED + TWICE))
    assert doubles["duplicate_of"].to_pylist() == list(range(TWICE))
    queries = run.round(1).query_ids()
    assert ((queries >= OLD) & (queries < OLD + ADDED)).any(), "the additions are asked for, too"
    assert not np.isin(queries, doubles["sample_id"].to_numpy()).any(), "and doubles never"
    answer(run, 1)
    assert ending(play(config, tmp_path / "run", DriverActor)).phase == "done"
    first, second = (run.round(index).metrics() for index in (0, 1))
    assert (first["labeled"] + first["pool"], first["duplicates"]) == (OLD, 0)
    assert (second["labeled"] + second["pool"], second["duplicates"]) == (OLD + ADDED, TWICE)


def ending(outcome: object) -> Ending:
    found = outcome.ending  # type: ignore[attr-defined]
    assert found is not None, outcome
    return found


def answer(run: RunDirectory, index: int) -> None:
    ids = run.round(index).query_ids()
    names = run.class_names()
    labels = [names[label] for label in manifest_of(run).rows(ids)["label"].to_pylist()]
    given = {"sample_id": ids, "label": labels, "round": pa.array([index] * len(ids), pa.int32())}
    LabelBook(run).append(pa.table(given), "all-knowing")

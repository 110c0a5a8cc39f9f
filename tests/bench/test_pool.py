"""The benchmark of a large pool without Ray: its images, its look at memory, its words."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dm2at_ray.bench import pool_images, pool_study
from dm2at_ray.bench.memory import MemoryWatch, SpillWatch, kind_of
from dm2at_ray.bench.pool import memory_table, pool_notes, stages_table
from dm2at_ray.bench.pool_images import CLASSES, SIZE, draw_pictures, make_pool, write_shard
from dm2at_ray.bench.pool_round import RoundJob, config_of, stages_of
from dm2at_ray.bench.pool_study import PoolBenchSettings, PoolReport
from dm2at_ray.errors import ConfigError
from dm2at_ray.pool import SourceSpec, open_source
from dm2at_ray.pool.decode import decode

MIB = 1 << 20


def test_draw_pictures__depend_on_id_and_seed_only() -> None:
    ids = np.arange(100, 140)
    pixels, labels = draw_pictures(ids, seed=3)
    assert pixels.shape == (40, SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    some = draw_pictures(ids[[7, 30]], seed=3)
    np.testing.assert_array_equal(some.pixels, pixels[[7, 30]])
    np.testing.assert_array_equal(some.labels, labels[[7, 30]])
    assert not np.array_equal(draw_pictures(ids, seed=4).pixels, pixels)


def test_draw_pictures__are_all_different_and_of_all_classes() -> None:
    pixels, labels = draw_pictures(np.arange(1000), seed=0)
    assert len(np.unique(pixels.reshape(1000, -1), axis=0)) == 1000
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert len(counts) == len(CLASSES)
    assert counts.min() > 60


def test_write_shard__twice_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / name, 5000, 700, seed=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_shard__jpegs_of_about_a_kilobyte(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", 5000, 300, seed=1)
    images = pq.read_table(tmp_path / "a.parquet")["image"].to_pylist()
    sizes = [len(image) for image in images]
    assert min(sizes) >= 700
    assert max(sizes) <= 1500
    drawn = draw_pictures(np.arange(5000, 5300), seed=1).pixels.astype(float)
    decoded = np.stack([decode(image, SIZE, 3) for image in images])
    # Lossy, and colours at half the resolution, but the same pictures.
    errors = np.abs(decoded - drawn).mean(axis=(1, 2, 3))
    assert errors.max() < 20
    assert np.abs(np.roll(decoded, 1, axis=0) - drawn).mean() > 40


def test_make_pool__is_a_source_with_a_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_images, "SHARD_ROWS", 200)
    said: list[str] = []
    make_pool(tmp_path, 450, 2, 2, said.append)
    assert said[-1] == "images: 4 of 4 files"
    spec = SourceSpec(kind="parquet", path=str(tmp_path / "pool"), test_path=str(tmp_path / "test"))
    source = open_source(spec)
    (table,) = source.tables("pool")
    assert table.num_rows == 450
    np.testing.assert_array_equal(table["label"], draw_pictures(np.arange(450), seed=2).labels)
    assert sum(each.num_rows for each in source.tables("test")) == pool_images.TEST_IMAGES
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.parquet")}
    make_pool(tmp_path, 450, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.parquet")} == shards
    make_pool(tmp_path, 150, 2, 2)
    assert [table.num_rows for table in open_source(spec).tables("pool")] == [150]


HOLDS = """
import sys, mmap
own = shared = None
for line in sys.stdin:
    what, size = line.split()
    if what == "own":
        own = bytearray(int(size))
        own[::4096] = b"x" * len(own[::4096])
    elif what == "shared":
        shared = mmap.mmap(-1, int(size))
        for at in range(0, int(size), 4096):
            shared[at] = 1
    elif what == "free":
        own = None
    print("done", flush=True)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"


@contextmanager
def holder() -> Iterator[tuple[int, Callable[[str, int], None]]]:
    """A process whose child takes as much memory as it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def tell(what: str, size: int) -> None:
        process.stdin.write(f"{what} {size}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    try:
        yield process.pid, tell
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def test_memory_watch__sees_the_peak_of_a_child_of_its_own_pages() -> None:
    with holder() as (pid, tell):
        tell("own", 0)
        watch = MemoryWatch(pid)
        watch.look()
        before, marked_before = watch.peak_rss_bytes["other"], watch.peak_with_shared_bytes["other"]
        assert "launcher" in watch.peak_rss_bytes
        tell("own", 200 * MIB)
        watch.look()
        peak = watch.peak_rss_bytes["other"]
        assert 195 * MIB < peak - before < 230 * MIB
        tell("free", 0)
        tell("shared", 300 * MIB)
        watch.look()
        # What is freed leaves the peak, shared pages are nobody's own.
        assert watch.peak_rss_bytes["other"] == peak
        assert 295 * MIB < watch.peak_shared_bytes < 330 * MIB
        assert 295 * MIB < watch.peak_with_shared_bytes["other"] - marked_before < 400 * MIB
        assert watch.peak_rss_bytes["launcher"] < 100 * MIB
        assert watch.looks == 3


def test_memory_watch__knows_who_was_below_when_the_parent_is_gone() -> None:
    with holder() as (pid, tell):
        tell("own", 0)
        watch = MemoryWatch(pid)
        watch.look()
        (child,) = {each for each, _ in watch._known} - {pid}
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        watch.look()
        assert {each for each, _ in watch._known} == {child}


def test_spill_watch__counts_what_is_gone_again(tmp_path: Path) -> None:
    folder = tmp_path / "ray" / "session_1" / "ray_spilled_objects_abc"
    folder.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(tmp_path / "ray" / "session_1")
    watch = SpillWatch(tmp_path)
    watch.look()
    assert watch.total_bytes == 0
    (folder / "one").write_bytes(b"x" * 1000)
    watch.look()
    (folder / "one").unlink()
    (folder / "two").write_bytes(b"x" * 500)
    watch.look()
    assert watch.total_bytes == 1500


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["ray::DriverActor"], "driver"),
        (["ray::_check_slice()"], "task _check_slice"),
        (["ray::MapBatches(_on_task)"], "task _on_task"),
        (["ray::TrainController.run"], "actor TrainController"),
        (["/x/ray/core/src/ray/gcs/gcs_server", "--log_dir=/tmp"], "gcs_server"),
        (["ray::DashboardAgent"], "Ray's DashboardAgent"),
        (["sleep", "1"], "other"),
    ],
)
def test_kind_of(command: list[str], kind: str) -> None:
    assert kind_of(command) == kind


def test_stages_of__adds_up() -> None:
    finished = [
        (0, "list pool", 10.0, 5000),
        (0, "list test", 1.0, 100),
        (0, "score", 2.0, 5000),
        (0, "train", 4.0, 10),
        (1, "embed", 8.0, 4990),
        (1, "score", 5.0, 4990),
    ]
    stages = stages_of(finished, seconds=40.0)
    assert list(stages) == ["list", "start and end", "round 0", "embed", "score"]
    assert sum(stage["seconds"] for stage in stages.values()) == 40.0
    assert stages["list"] == {"seconds": 10.0, "images": 5000, "images_per_second": 500.0}
    assert stages["start and end"] == {"seconds": 11.0, "images": 0, "images_per_second": None}
    assert stages["round 0"]["seconds"] == 6.0


def test_config_of__is_a_run_of_two_rounds_by_the_routed_engine(tmp_path: Path) -> None:
    job = RoundJob(
        images=str(tmp_path),
        run_dir=str(tmp_path / "run"),
        n=1000,
        seed=5,
        cpus=2,
        object_store_bytes=1 << 30,
        block_rows=4096,
        queries=50,
        steps=20,
    )
    config = config_of(job)
    assert config.neighbors.engine == "routed"
    assert config.compute.object_store_bytes == 1 << 30
    assert (config.compute.cpus, config.compute.actors) == (2, 2)
    assert (config.query.initial, config.query.size, config.stop.rounds) == (50, 50, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 199}, "n=199 must be at least 200"),
        ({"cpus": 0}, "cpus=0 must be at least 1"),
        ({"object_store_bytes": 1000}, "object_store_bytes=1000 must be at least"),
        ({"keep": True}, "keep=True keeps nothing of a temporary folder; name one by work"),
        ({"work": Path("/nonexistent/folder")}, "work=/nonexistent/folder: no such folder; make it first"),
    ],
)
def test_settings__refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PoolBenchSettings(**options)


def test_folders__leave_nothing_but_what_was_there_or_is_to_be_kept(tmp_path: Path) -> None:
    with pool_study._folders(PoolBenchSettings(work=tmp_path)) as (images, run_dir):
        (images / "x").touch()
        (run_dir / "x").touch()
    assert list(tmp_path.iterdir()) == []
    with pool_study._folders(PoolBenchSettings(work=tmp_path, keep=True)):
        pass
    assert len(list(tmp_path.iterdir())) == 2
    with pool_study._folders(PoolBenchSettings(work=tmp_path)) as (images, run_dir):
        (images / "x").touch()
    assert (tmp_path / "images" / "x").exists()
    assert not run_dir.exists()


def test_tables__say_what_was_measured() -> None:
    report = PoolReport(
        n=1000,
        seconds=20.0,
        stages={"list": {"seconds": 4.0, "images": 1000, "images_per_second": 250.0}},
        peak_rss_bytes={"driver": 300 * MIB},
        peak_rss_with_object_store_bytes={"driver": 400 * MIB},
        object_store_bytes=1 << 30,
        peak_object_store_bytes=1 << 29,
        spilled_bytes=0,
        neighbors={"engine": "routed", "probes": 3, "recall": 0.99},
        accuracy={"clean": 0.5},
        rejected=0,
        machine={},
        settings={},
    )
    assert [list(column.cells) for column in stages_table(report).columns] == [
        ["list", "all"],
        ["4.0", "20.0"],
        ["1,000", "1,000"],
        ["250", "50"],
    ]
    assert [list(column.cells) for column in memory_table(report).columns] == [["driver"], ["300"], ["400"]]
    assert "1.00 GiB, of which 0.50 were written to" in pool_notes(report)[0]
    assert pool_notes(report)[-1] == "neighbours: routed, 3 cells a row, recall 0.9900"
    assert {"n", "seconds", "stages", "peak_rss_bytes"} <= {f.name for f in dataclasses.fields(report)}

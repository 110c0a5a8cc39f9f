"""Workers as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dm2at_ray.bench import process as module
from dm2at_ray.bench.process import run_worker
from dm2at_ray.bench.truth import query_order
from dm2at_ray.bench.worker import Job, work
from dm2at_ray.errors import RunError

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_work__in_this_process(job: Callable[..., Job], features: np.ndarray) -> None:
    result, ids = work(job("auto", repeat=3))
    assert ids.shape == (20, 5)
    assert result.engine_used == "exact"
    assert result.share == 1
    assert result.seconds > 0
    assert result.compile_seconds >= 0


def test_run_worker__measures_a_process_of_its_own(
    job: Callable[..., Job], features: np.ndarray, nearest: Callable[..., np.ndarray]
) -> None:
    """The test's process holds half a gigabyte more than the worker may be charged with."""
    ballast = np.ones(1 << 29, dtype=np.uint8)
    result, ids = run_worker(job("cdist", rows=400), limit=60)
    queries = query_order(400, seed=3)[:20]
    np.testing.assert_array_equal(ids, nearest(5)[queries])
    assert 0 < result.imports_rss_bytes <= result.peak_rss_bytes < result.imports_rss_bytes + (1 << 27)
    assert ballast[-1] == 1


def test_run_worker__tells_what_a_user_can_mend(job: Callable[..., Job]) -> None:
    with pytest.raises(RunError, match="engine='nonsense' is unknown"):
        run_worker(job("nonsense"), limit=60)


def test_run_worker__tells_the_last_words_of_one_that_broke(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ended with code 1: .*FileNotFoundError"):
        run_worker(job("exact", features=str(tmp_path / "none.npy")), limit=60)


def test_run_worker__ends_one_that_takes_too_long(job: Callable[..., Job]) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"given up after 0\.2 s; raise the limit, or lower n"):
        run_worker(job("exact"), limit=0.2)
    assert time.monotonic() - began < 30


def test_own_group__takes_children_along(tmp_path: Path) -> None:
    """A worker that started a process of its own, and is waited for when the benchmark is interrupted."""
    starts = f"import os, subprocess; child = subprocess.Popen({SLEEPS!r})"
    code = f"{starts}; print(os.getpid(), child.pid, flush=True); child.wait()"
    command = [sys.executable, "-c", code]
    said = tmp_path / "said"

    def interrupted() -> None:
        with said.open("w+") as output, module.own_group(command, dict(os.environ), output):
            deadline = time.monotonic() + 30
            while not said.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    worker, child = (int(pid) for pid in said.read_text().split())
    assert_gone(worker)
    assert_gone(child)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_neighbors__leaves_no_process_behind(
    number: int, code: int, tmp_path: Path, features: np.ndarray
) -> None:
    own, scratch = tmp_path / "own.npy", tmp_path / "scratch"
    scratch.mkdir()
    np.save(own, np.tile(features, (50, 1)) + np.random.default_rng(0).random((20000, 24)))
    command = [sys.executable, "-m", "dm2at_ray.bench.neighbors", "--features", str(own), "--threads", "1"]
    bench = subprocess.Popen(
        [*command, "--audit-queries", "1", "--engine", "exact", "--repeat", "1000", "--no-peers"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Torch may make its compiler's cache, or not yet, when the signal comes; it is nobody's scratch.
        env={**os.environ, "TMPDIR": str(scratch), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")},
    )
    assert bench.stderr is not None
    while b"exact" not in (line := bench.stderr.readline()):
        assert line
    deadline = time.monotonic() + 30
    while not (started := children_of(bench.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    bench.send_signal(number)
    assert bench.wait(30) == code
    bench.stderr.close()
    assert started
    for child in started:
        assert_gone(child)
    assert list(scratch.iterdir()) == []


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")

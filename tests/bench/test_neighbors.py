"""The command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dm2at_ray.bench import study as module
from dm2at_ray.bench.process import run_worker
from dm2at_ray.bench.worker import Job, Result, work

Answer = tuple[int, str, str]
ISSUE_FIELDS = {"engine", "n", "d", "k", "seconds", "recall", "peak_rss_bytes", "ratio_to_cdist"}


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no processes: each takes seconds to import torch."""
    monkeypatch.setattr(module, "run_worker", lambda job, limit: work(job))


@pytest.mark.usefixtures("_in_this_process")
def test_neighbors__json_of_growth_on_own_features(
    dm2at: Callable[..., Answer], feature_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--n", 100, "--n", 400, "--k", 4, "--threads", 1, "--audit-queries", 30]
    engines = ["--engine", "exact", "--engine", "auto", "--peer", "cdist", "--peer", "sklearn-l1"]
    code, stdout, stderr = dm2at(
        "bench", "neighbors", "--features", feature_file, *options, *engines, "--json"
    )
    found = json.loads(stdout)
    rows = found["rows"]
    assert code == 0
    assert [(row["n"], row["engine"]) for row in rows] == [
        (n, name) for n in (100, 400) for name in ("exact", "auto", "cdist", "sklearn-l1")
    ]
    assert set(rows[0]) >= ISSUE_FIELDS
    for row in rows:
        assert row["recall"] == 1 or row["metric"] == "L1 only"
        assert (row["d"], row["k"], row["audited"], row["error"]) == (24, 4, 30, None)
        assert row["pairs_dims_per_second"] == pytest.approx(row["n"] ** 2 * 24 / row["seconds"])
    cdist = rows[2]["seconds"]
    assert [row["ratio_to_cdist"] for row in rows[:4]] == pytest.approx(
        [cdist / row["seconds"] for row in rows[:4]]
    )
    assert {fit["engine"] for fit in found["growth"]} == {"exact", "auto", "cdist", "sklearn-l1"}
    assert set(found["hardness"]) == {"100", "400"}
    assert found["machine"]["torch"]
    assert "n = 400: sklearn-l1" in stderr


@pytest.mark.usefixtures("_in_this_process")
def test_neighbors__an_engine_that_fails_is_a_row_and_exit_code_1(
    dm2at: Callable[..., Answer], feature_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_exact(job: Job, limit: float) -> tuple[Result, np.ndarray]:
        return run_worker(job, 0.01) if job.name == "exact" else work(job)

    monkeypatch.setattr(module, "run_worker", fail_exact)
    options = ["--threads", 1, "--audit-queries", 9, "--engine", "exact", "--peer", "cdist"]
    code, stdout, _ = dm2at("bench", "neighbors", "--features", feature_file, *options)
    assert code == 1
    assert re.search(r"400 +exact +failed", stdout)
    assert "exact at n = 400 failed: given up after 0.01 s; raise the limit, or lower n" in stdout
    assert re.search(r"400 +cdist .*1\.00000 +1\.00 ", stdout)


@pytest.mark.usefixtures("_in_this_process")
def test_neighbors__makes_and_keeps_features_of_real_images(
    dm2at: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    kept = tmp_path / "kept.npy"
    options = ["--threads", 1, "--audit-queries", 50, "--engine", "exact", "--no-peers", "--json"]
    code, stdout, _ = dm2at("bench", "neighbors", "--n", 600, "--d", 8, "--save-features", kept, *options)
    found = json.loads(stdout)
    assert code == 0
    assert found["source"] == "collages of scikit-learn digits through a trained convolutional net"
    assert found["rows"][0]["recall"] == 1
    assert found["rows"][0]["ratio_to_cdist"] is None
    assert found["hardness"]["600"]["kth_to_median"] > 0.2
    code, again, _ = dm2at("bench", "neighbors", "--features", kept, *options)
    assert json.loads(again)["hardness"] == found["hardness"]


WRONG = {
    "unknown engine": (["--engine", "exat"], r"engine='exat' is unknown; use one of: auto, exact, .*"),
    "unknown peer": (["--peer", "scann"], r"peer='scann' is unknown; use one of: cdist, .*"),
    "k >= n": (["--n", "50", "--k", "50"], r"k=50 must be less than n=50"),
    "n < 2": (["--n", "1"], r"n=1 must be at least 2"),
    "too many rows": (["--n", "401"], r"n=401, but .* has 400 rows"),
    "another d": (["--d", "23"], r"d=23, but .* has 24 features a row"),
    "limit": (["--peer-limit", "0"], r"peer_limit=0\.0 must be above 0"),
    "device": (["--device", "gpu"], r"device='gpu' cannot be used \(.*\); use cpu"),
    "no effect": (["--images", "."], r"images=\. has no effect: features are read from .*"),
    "peers and none": (
        ["--no-peers", "--peer", "cdist"],
        r"peer='cdist' has no effect with --no-peers; leave one out",
    ),
}


@pytest.mark.parametrize(("options", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_neighbors__refuses_in_one_line(
    options: list[str], pattern: str, dm2at: Callable[..., Answer], feature_file: Path
) -> None:
    code, stdout, stderr = dm2at("bench", "neighbors", "--features", feature_file, *options)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(pattern + r"\n", stderr), stderr


def test_neighbors__refuses_a_folder_that_is_not_there(dm2at: Callable[..., Answer], tmp_path: Path) -> None:
    code, _, stderr = dm2at("bench", "neighbors", "--save-features", tmp_path / "none" / "f.npy")
    assert code == 2
    assert stderr.endswith("f.npy: no such folder; make it first\n")


def test_neighbors__a_peer_that_is_not_installed(
    dm2at: Callable[..., Answer], feature_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dm2at_ray.bench.settings.peers_installed", lambda: ["cdist"])
    code, _, stderr = dm2at("bench", "neighbors", "--features", feature_file, "--peer", "faiss-l1")
    assert (code, stderr) == (2, "peer='faiss-l1' is not installed; pip install faiss-cpu\n")


def test_module__runs_alone_without_ray_and_pydantic(feature_file: Path) -> None:
    """As on a machine that has neither: importing either of them breaks."""
    code = (
        "import sys; sys.modules.update(ray=None, pydantic=None); sys.argv[0] = 'neighbors'; import runpy; "
        "runpy.run_module('dm2at_ray.bench.neighbors', run_name='__main__')"
    )
    options = ["--features", str(feature_file), "--audit-queries", "20", "--engine", "exact", "--no-peers"]
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--threads", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["recall"] == 1
    refused = subprocess.run(
        [sys.executable, "-c", code, "--engine", "none"], capture_output=True, text=True, timeout=120
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("engine='none' is unknown")

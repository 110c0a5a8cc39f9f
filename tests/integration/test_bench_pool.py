"""`dm2at bench pool` as a user runs it: a whole round on a Ray of its own, in a tiny pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from .processes import VARIABLE, end_marked, wait_until_gone

N = 3000
SECONDS = 300
STAGES = ["list", "embed", "neighbors", "score", "craft", "label", "train", "evaluate"]


def test_bench_pool__a_whole_round(tmp_path: Path) -> None:
    """It shares no cluster with other tests, because what it measures is every process of its own."""
    mark = uuid.uuid4().hex
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "dm2at_ray", "bench", "pool", "--n", str(N), "--json"]
    try:
        bench = subprocess.run(
            [*command, "--object-store-bytes", "200000000", "--work", str(work)],
            env={**os.environ, VARIABLE: mark, "RAY_ADDRESS": "127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert bench.returncode == 0, bench.stderr
        wait_until_gone(mark, 30)
    finally:
        end_marked(mark)
    report = json.loads(bench.stdout)
    assert report["n"] == N
    assert sorted(report["stages"]) == sorted([*STAGES, "round 0", "start and end"])
    seconds = sum(stage["seconds"] for stage in report["stages"].values())
    assert abs(seconds - report["seconds"]) < 0.1
    for name in ("list", "embed", "neighbors", "score"):
        stage = report["stages"][name]
        # The first hundreds were labeled in round 0.
        assert stage["images"] == (N if name == "list" else N - 300)
        assert abs(stage["images_per_second"] - stage["images"] / stage["seconds"]) < 1
    assert {"launcher", "driver", "raylet", "gcs_server"} <= set(report["peak_rss_bytes"])
    assert any("Embedder" in kind for kind in report["peak_rss_bytes"])
    assert 50e6 < max(report["peak_rss_bytes"].values()) < 2 << 30
    assert 0 < report["peak_object_store_bytes"] <= 200_000_000
    assert report["spilled_bytes"] == 0
    assert report["neighbors"]["engine"] == "routed"
    assert report["neighbors"]["recall"] > 0.9
    assert report["rejected"] == 0
    assert list(work.iterdir()) == []

"""What a benchmark ran on."""

from __future__ import annotations

import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dm2at_ray.bench import machine as module
from dm2at_ray.bench.machine import OtherLoad, cores, machine_facts, peak_rss_bytes

SPINS = [sys.executable, "-c", "while True: pass"]


def test_machine_facts__name_processor_and_versions() -> None:
    facts = machine_facts(torch.device("cpu"))
    assert facts["cpu"]
    assert facts["cores"] == cores() >= 1
    assert str(facts["torch"]).split("+")[0] == torch.__version__.split("+")[0]
    assert facts["python"] == platform.python_version()
    assert facts["gpu"] is None


def test_peak_rss_bytes__grows_with_what_is_held_and_does_not_fall() -> None:
    ballast = np.ones(1 << 28, dtype=np.uint8)
    peak = peak_rss_bytes()
    assert peak > len(ballast)
    del ballast
    # The kernel counts pages in batches.
    assert peak_rss_bytes() > peak - (1 << 24)


def test_other_load__leaves_out_our_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system where others take half a core while this process works."""
    monkeypatch.setattr(module, "_busy_seconds", lambda: time.process_time() + time.perf_counter() / 2)
    assert load_while_spinning() == pytest.approx(0.5, abs=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc/stat")
def test_other_load__counts_other_processes() -> None:
    with subprocess.Popen(SPINS) as other:
        found = load_while_spinning()
        other.kill()
    assert found > 0.3


def load_while_spinning() -> float:
    load = OtherLoad()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass
    found = load.cores()
    assert found is not None
    return found

"""What a benchmark ran on, and the memory that it took."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib import metadata
from pathlib import Path

import torch

LIBRARIES = ("torch", "numba", "triton", "numpy", "faiss-cpu", "scikit-learn")


def machine_facts(device: torch.device) -> dict[str, object]:
    """Return the processor, its cores, the GPU where one is used, and the versions of what was run."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in LIBRARIES},
    }


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Return the highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: after a fork that counts the parent's memory, too.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class OtherLoad:
    """Measures the CPU cores that other processes take, and a hypervisor steals, from when it is made."""

    def __init__(self) -> None:
        self._began = self._times()

    def cores(self) -> float | None:
        """Return the mean number of cores since then; None where the system does not tell."""
        (wall, busy, own), (wall_before, busy_before, own_before) = self._times(), self._began
        if busy is None or busy_before is None:
            return None
        return max(0.0, (busy - busy_before - (own - own_before)) / (wall - wall_before))

    @staticmethod
    def _times() -> tuple[float, float | None, float]:
        """Return seconds: of the clock, of all work on the cores that are ours to use, of our own work."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), _busy_seconds(), usage.ru_utime + usage.ru_stime


def _busy_seconds() -> float | None:
    statistics = Path("/proc/stat")
    if not statistics.exists():
        return None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in statistics.read_text().splitlines()]
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice.
    ticks = sum(sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line and line[0] in ours)
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

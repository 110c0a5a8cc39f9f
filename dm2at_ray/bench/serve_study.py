"""The benchmark of the service: a run to label, a server, many who label at once, and a check of the log."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dm2at_ray.bench.checks import check_at_least
from dm2at_ray.bench.machine import OtherLoad, machine_facts
from dm2at_ray.bench.memory import PROC
from dm2at_ray.bench.process import LAST_LINES, own_group
from dm2at_ray.bench.serve_checks import Faults, find_faults
from dm2at_ray.bench.serve_labelers import JOB, RESULT, LabelersJob, LabelersResult
from dm2at_ray.bench.serve_run import NAME, BenchRun, make_run
from dm2at_ray.errors import ConfigError, RunError
from dm2at_ray.service.tokens import new_token

PERCENTILES = (50, 95, 99, 100)
START_SECONDS = 120.0
_LISTENS = " on http://"

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ServeBenchSettings:
    """The work of `dm2at bench serve`.

    Raises:
        ConfigError: a value is out of range, or the folder is not there.
    """

    labelers: int = 50
    """People who label at once."""

    queries: int = 10_000
    """Queries that are open in the beginning."""

    seed: int = 0
    """Of the pictures, and of which of them are asked for."""

    think_ms: float = 0.0
    """How long a labeler looks at a picture before answering."""

    work: Path | None = None
    """Where the run is made; a temporary folder if None."""

    limit: float = 3600.0
    """Seconds after which the labelers are stopped."""

    def __post_init__(self) -> None:
        for name, smallest in (("labelers", 1), ("queries", 1), ("seed", 0)):
            check_at_least(name, getattr(self, name), smallest)
        if not 0 <= self.think_ms <= 60_000:
            # A lease of the service's own length must outlast the pictures that a labeler holds.
            raise ConfigError(f"think_ms={self.think_ms:g} must be 0 to 60,000")
        if self.work is not None and not self.work.is_dir():
            raise ConfigError(f"work={self.work}: no such folder; make it first")
        if not (PROC / "self" / "status").exists():
            raise ConfigError("bench serve: this system has no /proc, by which memory is measured; use Linux")


@dataclass(frozen=True, kw_only=True)
class ServeReport:
    """What the benchmark found.

    Attributes:
        first_seconds: What the very first request took, in which the service builds its index of the run.
        seconds: From the next one to the end of the last.
        requests: kind of request -> count, and milliseconds: p50, p95, p99, max.
        labels_per_second: Labels that were reported as written.
        requests_per_second: Of all kinds.
        picture_bytes: Of all pictures that were sent.
        log_files: Files of the log that the labels were written into.
        faults: What went wrong: all 0.
        rss_bytes: Of the server before the first request.
        peak_rss_bytes: Of the server.
        server_cpu_seconds: What the server took of the cores while they labeled.
        labelers_cpu_seconds: What the labelers' process took in all.
        other_cores: Mean number of cores that others took, the server and the labelers not among them.
        machine: processor, cores, versions.
        settings: what was asked for.
    """

    first_seconds: float
    seconds: float
    requests: dict[str, dict[str, float]]
    labels_per_second: float
    requests_per_second: float
    picture_bytes: int
    log_files: int
    faults: dict[str, int]
    rss_bytes: int
    peak_rss_bytes: int
    server_cpu_seconds: float
    labelers_cpu_seconds: float
    other_cores: float | None
    machine: dict[str, object]
    settings: dict[str, Any]


def serve_study(settings: ServeBenchSettings, progress: Progress) -> ServeReport:
    """Make a run, serve it, have it labeled, and check the log.

    Args:
        settings: what to do.
        progress: told in a line what is done.

    Raises:
        RunError: the server or the labelers failed; their last lines are told.
    """
    with tempfile.TemporaryDirectory(prefix="dm2at-bench-", dir=settings.work) as name:
        folder = Path(name)
        run = make_run(folder, settings.queries, settings.seed, progress)
        tokens = {
            who: new_token(folder / "tokens.yaml", who, "label")
            for who in (f"labeler-{number}" for number in range(settings.labelers))
        }
        with serving(folder, run) as (url, pid):
            progress(f"{settings.labelers} labelers at {url}")
            rss, cpu, other = resident(pid)["VmRSS"], cpu_seconds(pid), OtherLoad()
            job = LabelersJob(url, NAME, tokens, run.truth, settings.think_ms)
            result, labelers_cpu = _label(folder, job, settings.limit)
            load = other.cores()
            cpu, peak = cpu_seconds(pid) - cpu, resident(pid)["VmHWM"]
        return _report(settings, run, result, (rss, peak, cpu, labelers_cpu, load))


@contextmanager
def serving(folder: Path, run: BenchRun) -> Iterator[tuple[str, int]]:
    """A server of the run below a folder, in a process of its own: its URL and process id.

    Raises:
        RunError: It does not come up.
    """
    options = {
        "--runs": folder / "runs",
        "--port": 0,
        "--tokens": folder / "tokens.yaml",
        "--data": run.images,
        "--cache": folder / "cache",
    }
    command = [
        sys.executable,
        "-m",
        "dm2at_ray",
        "serve",
        *(str(each) for pair in options.items() for each in pair),
    ]
    with ExitStack() as stack:
        said = stack.enter_context((folder / "server").open("w+"))
        heard = stack.enter_context((folder / "server").open())
        process = stack.enter_context(own_group(command, dict(os.environ), said))
        lines: list[str] = []
        end = time.monotonic() + START_SECONDS
        while not any(_LISTENS in line for line in lines):
            lines += [line.rstrip() for line in heard]
            if process.poll() is not None or time.monotonic() > end:
                last = " | ".join(lines[-LAST_LINES:])
                raise RunError(f"the server does not come up: {last or 'nothing said'}")
            time.sleep(0.05)
        (line,) = [line for line in lines if _LISTENS in line]
        yield "http://" + line.rpartition(_LISTENS)[2], process.pid


def _label(folder: Path, job: LabelersJob, limit: float) -> tuple[LabelersResult, float]:
    """Have the round labeled by a process of its own; what it saw, and the CPU seconds that it took."""
    (folder / JOB).write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "dm2at_ray.bench.serve_labelers", str(folder)]
    before = os.times()
    with (folder / "labelers").open("w+") as said, own_group(command, dict(os.environ), said) as process:
        try:
            code = process.wait(limit)
        except Exception:
            raise RunError(f"the labelers are not done after {limit:g} s; raise the limit") from None
        said.seek(0)
        last = " | ".join(said.read().strip().splitlines()[-LAST_LINES:])
    after = os.times()
    if code != 0:
        raise RunError(f"the labelers ended with code {code}: {last or 'nothing said'}")
    answer = json.loads((folder / RESULT).read_text())
    if "error" in answer:
        raise RunError(f"a labeler was refused: {answer['error']}")
    took = after.children_user + after.children_system - before.children_user - before.children_system
    return LabelersResult(**answer), took


def _report(
    settings: ServeBenchSettings,
    run: BenchRun,
    result: LabelersResult,
    taken: tuple[int, int, float, float, float | None],
) -> ServeReport:
    rss, peak, cpu, labelers_cpu, load = taken
    faults: Faults = find_faults(run.directory, run.truth, result)
    requests = sum(map(len, result.milliseconds.values()))
    return ServeReport(
        first_seconds=result.first_seconds,
        seconds=result.seconds,
        requests={kind: summary(took) for kind, took in result.milliseconds.items()},
        labels_per_second=len(result.acknowledged) / result.seconds,
        requests_per_second=requests / result.seconds,
        picture_bytes=result.picture_bytes,
        log_files=len(run.directory.files.names("labels")) - 1,
        faults=vars(faults),
        rss_bytes=rss,
        peak_rss_bytes=peak,
        server_cpu_seconds=cpu,
        labelers_cpu_seconds=labelers_cpu,
        other_cores=None if load is None else max(0.0, load - (cpu + labelers_cpu) / result.seconds),
        machine=machine_facts(torch.device("cpu")),
        settings={name: str(value) for name, value in asdict(settings).items()},
    )


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Count and percentiles of what requests took.

    Examples:
        >>> summary([3.0, 1.0, 2.0])["p50"]
        2.0
    """
    names = [f"p{percent}" if percent < 100 else "max" for percent in PERCENTILES]
    values = np.percentile(milliseconds, PERCENTILES).tolist() if milliseconds else [0.0] * len(names)
    return {"count": len(milliseconds), **dict(zip(names, values, strict=True))}


def resident(pid: int) -> dict[str, int]:
    """Bytes of memory that a process holds (VmRSS), and has held at most (VmHWM)."""
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def cpu_seconds(pid: int) -> float:
    """Seconds that a process has had a core."""
    # The command may hold spaces and parentheses; what follows its last one does not.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

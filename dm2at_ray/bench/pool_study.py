"""The benchmark of a large pool: make it, play a round on it, and watch the memory of every process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dm2at_ray.bench.checks import check_at_least
from dm2at_ray.bench.machine import cores, machine_facts
from dm2at_ray.bench.memory import PROC, MemoryWatch, SpillWatch
from dm2at_ray.bench.pool_images import make_pool
from dm2at_ray.bench.pool_round import JOB, RESULT, RoundJob
from dm2at_ray.bench.process import LAST_LINES, own_group
from dm2at_ray.errors import ConfigError, RunError

LOOK_SECONDS = 0.5
END_SECONDS = 30.0
LONGEST_RAY_FOLDER = 40
"""Characters: the sockets that Ray makes below it have names of 107 at most."""

GIB = 1 << 30

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PoolBenchSettings:
    """The work of `dm2at bench pool`.

    Raises:
        ConfigError: a value is out of range, or the folder is not there.
    """

    n: int = 100_000
    """Images of the pool."""

    seed: int = 0
    """Of the images and of the run."""

    cpus: int = 2
    """CPUs of the Ray that is started, and its actors."""

    object_store_bytes: int = GIB
    """Size of its object store."""

    block_rows: int = 16_384
    """Rows of a piece of work."""

    work: Path | None = None
    """Where images and run are kept; a temporary folder if None."""

    keep: bool = False
    """Whether they are left there."""

    def __post_init__(self) -> None:
        for name, smallest in (("n", 200), ("seed", 0), ("cpus", 1), ("block_rows", 1)):
            check_at_least(name, getattr(self, name), smallest)
        check_at_least("object_store_bytes", self.object_store_bytes, 80_000_000)
        if self.keep and self.work is None:
            raise ConfigError("keep=True keeps nothing of a temporary folder; name one by work")
        if self.work is not None and not self.work.is_dir():
            raise ConfigError(f"work={self.work}: no such folder; make it first")
        if not (PROC / "self" / "status").exists():
            raise ConfigError("bench pool: this system has no /proc, by which memory is measured; use Linux")

    @property
    def queries(self) -> int:
        """Labels asked for in each of the two rounds."""
        return min(1000, self.n // 10)

    @property
    def steps(self) -> int:
        """Optimizer steps of each of the two trainings."""
        return min(300, self.n // 50)


@dataclass(frozen=True, kw_only=True)
class PoolReport:
    """What the benchmark found.

    Attributes:
        n: images of the pool.
        seconds: of the whole run from the start of Ray to its end, without the making of the images.
        stages: stage -> seconds, images, images_per_second (None where none are counted).
        peak_rss_bytes: kind of process -> highest resident memory of any one without shared pages.
        peak_rss_with_object_store_bytes: kind of process -> the same with them (VmHWM).
        object_store_bytes: size of the object store, whose pages are shared.
        peak_object_store_bytes: what of it was ever written to.
        spilled_bytes: what Ray moved from it to the disk.
        neighbors: engine, probes, and the recall measured in the round.
        accuracy: of the model that was trained in the round.
        rejected: images set aside.
        machine: processor, cores, versions.
        settings: what was asked for.
    """

    n: int
    seconds: float
    stages: dict[str, dict[str, Any]]
    peak_rss_bytes: dict[str, int]
    peak_rss_with_object_store_bytes: dict[str, int]
    object_store_bytes: int
    peak_object_store_bytes: int
    spilled_bytes: int
    neighbors: dict[str, Any]
    accuracy: dict[str, Any]
    rejected: int
    machine: dict[str, object]
    settings: dict[str, Any]


def pool_study(settings: PoolBenchSettings, progress: Progress) -> PoolReport:
    """Make a pool, play one selection round on it, and measure.

    Args:
        settings: what to do.
        progress: told in a line what is done.

    Raises:
        RunError: the run failed; its last lines are told.
    """
    with _folders(settings) as (images, run_dir):
        make_pool(images, settings.n, settings.seed, cores(), progress)
        job = RoundJob(
            images=str(images),
            run_dir=str(run_dir),
            queries=settings.queries,
            steps=settings.steps,
            **{
                name: getattr(settings, name)
                for name in ("n", "seed", "cpus", "object_store_bytes", "block_rows")
            },
        )
        answer, memory, spilled = _play(job, progress)
        return PoolReport(
            n=settings.n,
            seconds=answer["seconds"],
            stages=answer["stages"],
            peak_rss_bytes=_largest_first(memory.peak_rss_bytes),
            peak_rss_with_object_store_bytes=_largest_first(memory.peak_with_shared_bytes),
            object_store_bytes=settings.object_store_bytes,
            peak_object_store_bytes=memory.peak_shared_bytes,
            spilled_bytes=spilled,
            neighbors=answer["neighbors"],
            accuracy=answer["accuracy"],
            rejected=answer["rejected"],
            machine=machine_facts(torch.device("cpu")),
            settings={name: str(value) for name, value in asdict(settings).items()},
        )


def _play(job: RoundJob, progress: Progress) -> tuple[dict[str, Any], MemoryWatch, int]:
    """Do a job in a process of its own, and look at it and at all below it from here."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dm2at-bench-")))
        ray_folder = Path(stack.enter_context(_ray_folder()))
        (directory / JOB).write_text(json.dumps(asdict(job)))
        environment = {**os.environ, "RAY_TMPDIR": str(ray_folder)}
        environment.pop("RAY_ADDRESS", None)
        # A file, not a pipe: whatever is left of Ray can neither fill it nor hold it open.
        said = stack.enter_context((directory / "said").open("w+"))
        heard = stack.enter_context((directory / "said").open())
        command = [sys.executable, "-m", "dm2at_ray.bench.pool_round", str(directory)]
        process = stack.enter_context(own_group(command, environment, said))
        memory, spill = MemoryWatch(process.pid), SpillWatch(ray_folder)
        lines: list[str] = []

        def hear() -> None:
            for line in heard:
                lines.append(line.rstrip())
                progress(line.rstrip())

        try:
            while process.poll() is None:
                began = time.monotonic()
                memory.look()
                spill.look()
                hear()
                time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))
        except BaseException:
            _end(process)
            raise
        hear()
        if process.returncode != 0:
            last = " | ".join(lines[-LAST_LINES:])
            raise RunError(f"the round ended with code {process.returncode}: {last or 'nothing said'}")
        answer = json.loads((directory / RESULT).read_text())
    if "error" in answer:
        raise RunError(answer["error"])
    return answer, memory, spill.total_bytes


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have a run end as by Ctrl-C, so that it takes its Ray along."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


@contextmanager
def _folders(settings: PoolBenchSettings) -> Iterator[tuple[Path, Path]]:
    """Folders of the images and of the run; what was made here and is not to be kept is deleted."""
    with contextlib.ExitStack() as stack:
        work = settings.work
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dm2at-bench-")))
        images = work / "images"
        was_there = images.exists()
        images.mkdir(exist_ok=True)
        run_dir = Path(tempfile.mkdtemp(prefix="run-", dir=work))
        try:
            yield images, run_dir
        finally:
            if not settings.keep:
                shutil.rmtree(run_dir, ignore_errors=True)
                if not was_there:
                    shutil.rmtree(images, ignore_errors=True)


def _ray_folder() -> tempfile.TemporaryDirectory[str]:
    short = len(tempfile.gettempdir()) < LONGEST_RAY_FOLDER - len("/dm2at-12345678")
    return tempfile.TemporaryDirectory(
        prefix="dm2at-", dir=None if short else "/tmp", ignore_cleanup_errors=True
    )


def _largest_first(values: dict[str, int]) -> dict[str, int]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))

"""A worker as a process: bounded in time, and gone with all its children when the benchmark ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import numpy as np

from dm2at_ray.bench.worker import IDS, JOB, RESULT, Job, Result
from dm2at_ray.errors import RunError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

LAST_LINES = 3


def run_worker(job: Job, limit: float) -> tuple[Result, np.ndarray]:
    """Do a job in a fresh process.

    Args:
        job: what to do.
        limit: seconds after which the process is killed.

    Returns:
        What it measured, and (P, k) int64 neighbours of the audit's first P queries.

    Raises:
        RunError: the job could not be done in time, or ended with an error: its last lines are told.
    """
    with tempfile.TemporaryDirectory(prefix="dm2at-bench-") as name:
        directory = Path(name)
        (directory / JOB).write_text(json.dumps(dataclasses.asdict(job)))
        command = [sys.executable, "-m", "dm2at_ray.bench.worker", name]
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(job.threads))}
        # A file, not a pipe: whatever a library prints can neither fill it nor hold it open.
        with (directory / "stderr").open("w+") as stderr, own_group(command, environment, stderr) as process:
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                raise RunError(f"given up after {limit:g} s; raise the limit, or lower n") from None
            stderr.seek(0)
            said = " | ".join(stderr.read().strip().splitlines()[-LAST_LINES:])
        if code != 0:
            ending = f"signal {-code}" if code < 0 else f"code {code}"
            raise RunError(f"ended with {ending}: {said or 'nothing said'}")
        answer = json.loads((directory / RESULT).read_text())
        if "error" in answer:
            raise RunError(answer["error"])
        return Result(**answer), np.load(directory / IDS)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, so that nothing it started is left behind."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_group(
    command: list[str], environment: dict[str, str], stderr: IO[str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, which is killed in the end with all that is in it.

    Args:
        command: what to start.
        environment: its variables.
        stderr: where it and its children write.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

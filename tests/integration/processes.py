"""Processes of a test, told by a variable of their environment that all their children inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

VARIABLE = "DM2AT_TEST"


def marked(mark: str) -> list[int]:
    """Ids of the living processes that were started with `DM2AT_TEST` set to this mark."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for directory in Path("/proc").iterdir():
        # It may end while it is looked at; one that has ended and was not waited for has no environment.
        with contextlib.suppress(OSError):
            if directory.name.isdigit() and wanted in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return found


def wait_until_gone(mark: str, seconds: float) -> None:
    """Wait until no process has the mark.

    Raises:
        TimeoutError: Some are still there; it names them.
    """
    deadline = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s these still run: {', '.join(map(_describe, left))}")
        time.sleep(0.1)


def end_marked(mark: str) -> None:
    """End what is left of a test's processes, each by its own id."""
    for process in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _describe(process: int) -> str:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{process} ({command.strip()[:80]})"
    return str(process)

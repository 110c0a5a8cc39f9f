"""The `dm2at` command as a process of its own session, and the smallest run that goes through every stage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml

from .processes import VARIABLE, marked

T = TypeVar("T")

TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "digits"},
    "query": {"initial": 40, "size": 20},
    "neighbors": {"k": 3},
    "training": {"epochs": 1, "min_steps": 0, "batch_size": 32},
    "evaluation": {"pgd_steps": 2, "max_images": 64},
    "stop": {"rounds": 1},
    "compute": {"actors": 1, "object_store_bytes": 100_000_000},
    "monitoring": {"port": 0},
}


def tiny_config(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A run of seconds on the digits, with some fields set otherwise."""
    return {"name": "tiny"} | {
        name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {**TINY, **sections}
    }


def write_config(path: Path, **sections: Mapping[str, Any]) -> Path:
    """Write `tiny_config` as a YAML file."""
    path.write_text(yaml.safe_dump(tiny_config(**sections)))
    return path


def wait_for(what: str, look: Callable[[], T | None], seconds: float) -> T:
    """Look until there is something to see (not None, not False)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:g} s")


class Command:
    """`dm2at …` in a session of its own; what is left of that session ends with the block.

    Args:
        *arguments: Of the command.
        folder: Its working directory, where stdout and stderr go as files.
        address: The Ray cluster to join; None lets it start its own.
        variables: More of its environment.
        terminal: File descriptor of a terminal for it to run at, instead of the files.
    """

    def __init__(
        self,
        *arguments: object,
        folder: Path,
        address: str | None = None,
        variables: Mapping[str, str] | None = None,
        terminal: int | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {VARIABLE: self.mark}
        if address is not None:
            environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        environment |= variables or {}
        self._files = {name: folder / f"{name}-{self.mark}" for name in ("stdout", "stderr")}
        start = [str(Path(sys.executable).with_name("dm2at"))]
        if terminal is not None:
            # The terminal's signals go to those that it controls.
            claim = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
            start = [sys.executable, "-c", f"{claim}; from dm2at_ray.cli import main; main()"]
            environment |= {"TERM": "xterm"}
        with self._files["stdout"].open("w") as stdout, self._files["stderr"].open("w") as stderr:
            self.process = subprocess.Popen(
                [*start, *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=stdout if terminal is None else terminal,
                stderr=stderr if terminal is None else terminal,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files["stdout"].read_text()

    @property
    def stderr(self) -> str:
        """What it has complained of so far."""
        return self._files["stderr"].read_text()

    def end(self, seconds: float) -> int:
        """Wait for it and return its exit code."""
        return self.process.wait(timeout=seconds)

    def processes(self) -> set[int]:
        """Ids of everything alive that it started, itself included: by the variable, or by its session."""
        return {
            *marked(self.mark),
            *(process for process in _processes() if _session(process) == self.process.pid),
        }

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
        for leftover in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(leftover, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _session(process: int) -> int | None:
    """Session of a living process; None for one that has ended."""
    try:
        state, _, _, session = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(session)

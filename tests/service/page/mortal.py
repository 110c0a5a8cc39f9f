"""A service that dies and comes back on the same port, with nothing but what is on disk."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from ..http.process import ServerProcess
from .waiting_run import WaitingRun, make_run

LEASE_SECONDS = 3
NO_CLUSTER = "http://127.0.0.1:9"
"""Where nobody listens: runs may be started, and wait for their cluster."""


class MortalService:
    """A service on one port, to be killed and started again.

    Args:
        folder: Of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: ServerProcess | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.process.poll() is None

    def start(self) -> None:
        """Start it; it asks for no tokens."""
        self.process = ServerProcess(
            *("--runs", self.folder, "--address", NO_CLUSTER),
            *("--port", self.port, "--lease-seconds", LEASE_SECONDS),
        )
        self.process.__enter__()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def new_run(self, **options: Any) -> WaitingRun:
        """A run on the digits of its own."""
        name = f"digits-{len(list(self.folder.iterdir()))}"
        return make_run(str(self.folder / name), {"source": "digits"}, **options)

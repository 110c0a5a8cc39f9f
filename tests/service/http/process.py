"""`dm2at serve` as a process of its own, and requests sent to it byte by byte."""

from __future__ import annotations

import http.client
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

START_SECONDS = 120
END_SECONDS = 60


class ServerProcess:
    """A server on a free port; use it as a context.

    Attributes:
        url: As it says it itself.
        first_line: What it said when it listened.
    """

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "dm2at_ray", "serve", "--port", "0", *map(str, arguments)]
        self._env = {**os.environ, **(env or {})}

    def __enter__(self) -> ServerProcess:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        # Read all the time, or the server waits for room in the pipe.
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.first_line = self._lines.get(timeout=START_SECONDS).rstrip("\n")
        except queue.Empty:
            self.kill()
            raise AssertionError(
                f"the server does not say that it listens: {''.join(self._errors)}"
            ) from None
        found = re.search(r"http://\[?([\d.:]+?)\]?:(\d+)$", self.first_line)
        assert found is not None, (self.first_line, self._errors)
        self.url, self._host, self._port = found[0], found[1], int(found[2])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return "".join(self._errors)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(END_SECONDS)
        for reader in self._readers:
            reader.join(END_SECONDS)
        return code

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_SECONDS)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request with its path sent as it is: status, headers in lower case, body."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A connection on which nothing was sent yet."""
        return socket.create_connection((self._host, self._port), timeout=30)

    def resident_bytes(self) -> int:
        """Memory that the process holds."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @staticmethod
    def _read(stream: Any, put: Any) -> None:
        for line in stream:
            put(line)

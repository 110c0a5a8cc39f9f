"""A Ray head with its job API, under a token, and a proxy before it that breaks connections."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dm2at_ray.launch import LOCAL_RAY

from .processes import VARIABLE, end_marked, wait_until_gone

HEAD = """
import subprocess, sys
head = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
head.terminate()
head.wait()
"""

START_SECONDS = 180
GRACE_SECONDS, END_SECONDS = 5, 30


@dataclass(frozen=True)
class JobCluster:
    """A running head.

    Attributes:
        port: Of its dashboard, on loopback.
        token: What it wants to see.
        folder: Where it keeps all of its files.
        mark: Tells its processes.
    """

    port: int
    token: str
    folder: Path
    mark: str

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment of a client that may join."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def ask(self, path: str, method: str = "GET") -> Any:
        """An answer of the REST API."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())

    def jobs(self, prefix: str) -> dict[str, str]:
        """Status of the jobs whose submission id begins so."""
        jobs = {job["submission_id"] or "": job["status"] for job in self.ask("/api/jobs/")}
        return {name: jobs[name] for name in sorted(jobs) if name.startswith(prefix)}

    def log(self, job: str) -> str:
        """The whole log of a job."""
        return str(self.ask(f"/api/jobs/{job}/logs")["logs"])

    def stop(self, job: str) -> None:
        """What `ray job stop` does."""
        self.ask(f"/api/jobs/{job}/stop", "POST")


@contextlib.contextmanager
def job_cluster() -> Iterator[JobCluster]:
    """A head of 4 CPUs (shares of what there is); its files go with it.

    It ends with its standard input, so also when this process is killed.
    """
    # Sockets of Ray need short paths.
    folder = Path(tempfile.mkdtemp(prefix="dm2at-"))
    mark, token = uuid.uuid4().hex, secrets.token_hex(32)
    gcs, dashboard, agent, client, metrics = free_ports(5)
    ports = {
        "port": gcs,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "metrics-export-port": metrics,
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    binaries = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        **LOCAL_RAY,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        VARIABLE: mark,
    }
    # The nodes know what is submitted to them, and no more.
    environment.pop("PYTHONPATH", None)
    with (folder / "head.log").open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", HEAD),
                *(str(binaries / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
                *("--num-cpus=4", "--num-gpus=0", "--object-store-memory=200000000"),
                *("--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}"),
                *(f"--{name}={value}" for name, value in ports.items()),
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        cluster = JobCluster(dashboard, token, folder, mark)
        _wait_for_jobs_api(cluster, process)
        yield cluster
    finally:
        assert process.stdin is not None
        process.stdin.close()
        # A head that has had jobs was seen to take more than half a minute to end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS)
        end_marked(mark)
        process.wait(timeout=END_SECONDS)
        wait_until_gone(mark, END_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_jobs_api(cluster: JobCluster, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            cluster.ask("/api/jobs/")
            return
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start: {(cluster.folder / 'head.log').read_text()}")


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class BreakingProxy:
    """Passes TCP connections on to a port of this machine, and breaks them when it is told to.

    Args:
        target: The port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self.is_down = False
        """Whether connections are broken as soon as they are made."""
        self.broken = 0
        """Connections that were broken so far."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def break_all(self) -> None:
        """Reset what is connected now."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            self.broken += 1
            for end in pair:
                _reset(end)

    def __enter__(self) -> BreakingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.break_all()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            if self.is_down:
                self.broken += 1
                _reset(client)
                continue
            pair = (client, socket.create_connection(("127.0.0.1", self._target)))
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError):
            while True:
                for end in select.select([client, server], [], [], 60)[0]:
                    data = end.recv(65536)
                    if not data:
                        return self._close(client, server)
                    other[end].sendall(data)
        return self._close(client, server)

    def _close(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._pairs.discard((client, server))
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.close()


def _reset(end: socket.socket) -> None:
    """Close without a farewell, so that the other side sees an error."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()

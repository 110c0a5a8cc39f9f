"""A cluster of several nodes as `deploy/local/cluster` makes it, and what a test does to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..integration.commands import wait_for

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "deploy/local/cluster"
START_SECONDS, END_SECONDS = 200, 60
ARRIVAL_SECONDS = 500


class Nodes:
    """A running cluster.

    Args:
        name: Of the cluster.
        folder: Where the gate lies.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.gate = Gate(folder / "gate")
        told = json.loads(self._call("status", "--json"))
        self.environment: dict[str, str] = told["environment"]

    def alive(self) -> set[str]:
        """Names of the workers that are there."""
        nodes = json.loads(self._call("status", "--json"))["nodes"]
        return {node["name"] for node in nodes if node["alive"]} - {"head"}

    def add(self) -> str:
        """Start one worker more; return its name when it has joined."""
        return self._call("add").strip()

    def kill(self, node: str) -> None:
        """End a node with all of its processes."""
        self._call("kill", node)

    def processes(self, node: str, *, running: str) -> list[int]:
        """Ids of the processes on a node whose command line has some words in it."""
        listed = subprocess.run(
            ["ip", "netns", "pids", f"dm2at-{self.name}-{node}"], capture_output=True, text=True, check=True
        )
        found = []
        for process in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if running in command:
                    found.append(process)
        return found

    def tasks(self) -> list[tuple[str, str]]:
        """Every task that ran: its name, and the name of its node."""
        nodes = {
            node["node_id"]: node["name"] for node in json.loads(self._call("status", "--json"))["nodes"]
        }
        answer = self.get("/api/v0/tasks?detail=1&limit=10000")["data"]["result"]["result"]
        return [(task["name"], nodes[task["node_id"]]) for task in answer if task["node_id"]]

    def get(self, path: str) -> Any:
        """Ask Ray's dashboard."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            f"{self.environment['RAY_API_SERVER_ADDRESS']}{path}",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--name", self.name, *arguments],
            env=node_environment(self.gate.path),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Gate:
    """Where the processes of a stage wait; see `gated_network`.

    Args:
        path: The file that closes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrivals = path.with_name("arrivals")

    def close(self, run: Path, stage: str, *, after: Path | None = None) -> None:
        """Close it for a stage of round 1 of a run, from a file's making on."""
        for arrival in self._arrivals.glob("*"):
            arrival.unlink()
        closed = {
            "status": str(run / "status.json"),
            "stage": stage,
            "round": 1,
            "after": after and str(after),
        }
        new = self.path.with_name("gate.new")
        new.write_text(json.dumps(closed))
        new.replace(self.path)

    def open(self) -> None:
        """Let all pass."""
        self.path.unlink(missing_ok=True)

    def waiting(self) -> set[str]:
        """Names of the nodes of which a process has come to the gate."""
        return {path.name.partition(".")[0].rpartition("-")[2] for path in self._arrivals.glob("*")}

    def wait_for(self, nodes: int) -> set[str]:
        """Wait until processes of so many nodes have come."""

        def look() -> set[str] | None:
            there = self.waiting()
            return there if len(there) >= nodes else None

        return wait_for(f"processes of {nodes} nodes at {self.path.read_text()}", look, ARRIVAL_SECONDS)


def require() -> None:
    """Skip where the machine does not allow namespaces, with what it lacks."""
    asked = subprocess.run(
        [sys.executable, str(SCRIPT), "check"], capture_output=True, text=True, timeout=START_SECONDS
    )
    if asked.returncode != 0:
        pytest.skip(f"no cluster of several nodes here: {asked.stderr.strip()}")


def node_environment(gate: Path) -> dict[str, str]:
    """What nodes are started with: this repository's code, and the gate."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    settings = {"PYTHONPATH": paths, "DM2AT_TEST_GATE": str(gate), "OMP_NUM_THREADS": "1"}
    # By Ray's default workers give way to all else on the machine, as to other tests.
    return others | settings | {"RAY_worker_niceness": "0"}


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Nodes]:
    """A head and two workers of one CPU; they end with this process, whatever becomes of it."""
    name = f"test{os.getpid()}"
    log = folder / "cluster-stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--name", name, "up", "--workers", "2", "--attached"],
            env=node_environment(folder / "gate"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # The phase of a test that this is part of has its own limit; the script has one, too.
        up = any(line.strip() == "up" for line in process.stdout)
        assert up, log.read_text()
        yield Nodes(name, folder)
    finally:
        process.stdin.close()
        try:
            process.wait(END_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(END_SECONDS)
            subprocess.run([sys.executable, str(SCRIPT), "--name", name, "down"], timeout=END_SECONDS)

"""The nodes of a cluster: started, added, killed, listed, ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import namespaces
from namespaces import ISOLATE, ClusterError, ip

NETWORK = "198.18"
"""Set aside for tests of networks (RFC 2544): no machine out there has such an address."""
HOST, HEAD = 1, 10
"""Last number of the address of this machine and of the head; worker i has HEAD + i."""
MOST_WORKERS = 255 - HEAD - 1
DASHBOARD, GCS, METRICS = 8265, 6379, 8080
START_SECONDS = 120

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead node is noticed within seconds; by default after half a minute to a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Environment of the nodes, where it is not set otherwise."""

ENTER = """set -e
echo "$1" > /proc/sys/kernel/hostname
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ray" /tmp/ray
shift 2
exec "$@"
"""


class Cluster:
    """One cluster; all that is known of it lies in its folder and in the names of its namespaces.

    Args:
        name: Tells clusters of one machine apart.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.gettempdir()) / f"dm2at-{name}"
        self.switch = f"dm2at-{name}-net"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def up(self, workers: int, cpus: float, store: int) -> None:
        """Start the head, which does no work, and the workers."""
        try:
            self.folder.mkdir(mode=0o700)
            self._hand_over(self.folder)
        except FileExistsError:
            raise ClusterError(f"cluster {self.name} is up, or was not ended: {sys.argv[0]} down") from None
        try:
            self._write({"workers": 0, "cpus": cpus, "store": store})
            self.token.touch(mode=0o600)
            self.token.write_text(secrets.token_hex(32))
            self._hand_over(self.token)
            self._make_switch()
            self._start("head", HEAD, "--head", "--num-cpus", 0, *self._head_options())
            self._wait_for(["head"])
            self.add(workers)
        except BaseException:
            self.down()
            raise

    def add(self, count: int) -> list[str]:
        """Start so many workers more; return their names."""
        with self._locked() as facts:
            first = facts["workers"] + 1
            facts["workers"] += count
            if facts["workers"] > MOST_WORKERS:
                raise ClusterError(f"a cluster has at most {MOST_WORKERS} workers in its life")
        names = [f"w{number}" for number in range(first, first + count)]
        for number, name in enumerate(names, first):
            options = ("--num-cpus", facts["cpus"], "--address", f"{self.address('head')}:{GCS}")
            self._start(name, HEAD + number, *options)
        self._wait_for(names)
        return names

    def kill(self, name: str) -> None:
        """End all processes of a node at once; its address stays, and answers no more."""
        space = self._space(name)
        if space not in namespaces.spaces():
            raise ClusterError(f"cluster {self.name} has no node {name}")
        namespaces.end_processes(space)

    def down(self) -> None:
        """End all nodes and remove everything; whatever is there already."""
        spaces = [space for space in namespaces.spaces() if space.startswith(f"dm2at-{self.name}-")]
        # The switch last: it holds this machine's end of the link.
        for space in sorted(spaces, key=lambda space: space == self.switch):
            namespaces.remove(space)
        shutil.rmtree(self.folder, ignore_errors=True)

    def nodes(self) -> list[dict[str, Any]]:
        """What the head knows of all nodes that were ever there: name, address, alive, cpus."""
        found = self._ask("/api/v0/nodes?detail=1&limit=1000")["data"]["result"]["result"]
        names = {self.address(name): name for name in ["head", *self._workers()]}
        return [
            {
                "name": names.get(node["node_ip"], "?"),
                "address": node["node_ip"],
                "node_id": node["node_id"],
                "alive": node["state"] == "ALIVE",
                "cpus": node["resources_total"].get("CPU", 0),
            }
            for node in sorted(found, key=lambda node: [int(part) for part in node["node_ip"].split(".")])
        ]

    def environment(self) -> dict[str, str]:
        """What a command on this machine needs to reach the cluster."""
        return {
            "RAY_API_SERVER_ADDRESS": f"http://{self.address('head')}:{DASHBOARD}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
        }

    def address(self, node: str) -> str:
        """Address of a node."""
        number = HEAD + (0 if node == "head" else int(node[1:]))
        return f"{NETWORK}.{self._facts()['subnet']}.{number}"

    @property
    def token(self) -> Path:
        """The file with the token that every call must present."""
        return self.folder / "token"

    def _hand_over(self, path: Path) -> None:
        """Let whoever called sudo read what only root would."""
        if "SUDO_UID" in os.environ:
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))

    def _workers(self) -> list[str]:
        return [f"w{number}" for number in range(1, self._facts()["workers"] + 1)]

    def _space(self, node: str) -> str:
        return f"dm2at-{self.name}-{node}"

    def _make_switch(self) -> None:
        ip("netns", "add", self.switch)
        subnet = self._take_subnet()
        with self._locked() as facts:
            facts["subnet"] = subnet
        inside = ("-n", self.switch)
        ip(*inside, "link", "add", "switch", "type", "bridge")
        ip(*inside, "link", "set", "switch", "up")
        ip(*inside, "link", "set", "host", "master", "switch", "up")
        ip("address", "add", f"{NETWORK}.{subnet}.{HOST}/24", "dev", f"dm2at{subnet}")
        ip("link", "set", f"dm2at{subnet}", "up")

    def _take_subnet(self) -> int:
        """Make the link to this machine; who makes the link has the subnet of its number."""
        for subnet in range(256):
            link = ("link", "add", f"dm2at{subnet}", "type", "veth", "peer", "name", "host")
            try:
                ip(*link, "netns", self.switch)
            except ClusterError as failure:
                if "exists" not in str(failure):
                    raise
            else:
                return subnet
        raise ClusterError(f"all subnets of {NETWORK}.0.0/16 are taken")

    def _head_options(self) -> list[Any]:
        head = self.address("head")
        return ["--port", GCS, "--dashboard-host", head, "--dashboard-port", DASHBOARD]

    def _start(self, name: str, number: int, *options: Any) -> None:
        space, facts = self._space(name), self._facts()
        address = f"{NETWORK}.{facts['subnet']}.{number}"
        host_name, home = f"{self.name}-{name}", self.folder / name
        (home / "ray").mkdir(parents=True)
        (home / "hosts").write_text(f"127.0.0.1 localhost\n{address} {host_name}\n")
        # Where Ray keeps its files, in every node's own view.
        Path("/tmp/ray").mkdir(exist_ok=True)
        ip("netns", "add", space)
        ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", name, "netns", self.switch)
        ip("-n", self.switch, "link", "set", name, "master", "switch", "up")
        ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", space, "link", "set", link, "up")
        # Leads nowhere; Ray asks for the way out to learn which address is its own.
        ip("-n", space, "route", "add", "default", "via", f"{NETWORK}.{facts['subnet']}.{HOST}")
        python = python_with_ray()
        ray: list[Any] = [
            python,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--node-ip-address",
            address,
        ]
        ray += ["--object-store-memory", facts["store"], "--metrics-export-port", METRICS, *options]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        paths = {"PATH": f"{Path(python).parent}:{os.environ.get('PATH', os.defpath)}"}
        auth = {key: value for key, value in self.environment().items() if key.startswith("RAY_AUTH")}
        with (home / "log").open("wb") as log:
            self._started[name] = subprocess.Popen(
                ["ip", "netns", "exec", space, *ISOLATE, "sh", "-c", ENTER, "sh", host_name, str(home)]
                + [str(argument) for argument in ray],
                env={**RAY, **environment, **paths, **auth},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for(self, names: list[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        missing = set(names)
        while missing:
            with contextlib.suppress(OSError, ValueError):
                missing -= {node["name"] for node in self.nodes() if node["alive"]}
            late = time.monotonic() > deadline
            for name in sorted(missing):
                if late or self._started[name].poll() is not None:
                    log = (self.folder / name / "log").read_text(errors="replace").strip().splitlines()
                    what = f"not ready after {START_SECONDS} s" if late else "ended"
                    raise ClusterError("\n".join([f"node {name}: {what}", *log[-15:]]))
            time.sleep(0.3)

    def _ask(self, path: str) -> Any:
        request = urllib.request.Request(
            f"http://{self.address('head')}:{DASHBOARD}{path}",
            headers={"Authorization": f"Bearer {self.token.read_text()}"},
        )
        # No proxy stands between this machine and its own nodes.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def _facts(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "facts.json").read_text())
        except FileNotFoundError:
            raise ClusterError(f"cluster {self.name} is not up") from None

    def _write(self, facts: dict[str, Any]) -> None:
        new = self.folder / "facts.json.new"
        new.write_text(json.dumps(facts))
        new.replace(self.folder / "facts.json")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """The facts, to be changed by one process at a time."""
        facts = self._facts()
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            facts = self._facts()
            yield facts
            self._write(facts)


def python_with_ray() -> str:
    """This Python, or that of the environment that `make` installs into."""
    here = Path(__file__).resolve().parents[2] / ".venv/bin/python"
    for python in (sys.executable, str(here)):
        found = shutil.which(python) and subprocess.run([python, "-c", "import ray"], capture_output=True)
        if found and found.returncode == 0:
            return python
    raise ClusterError("Ray is not installed here: make install")

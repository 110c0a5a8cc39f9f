"""The Ray of this machine: started or joined on 127.0.0.1 and nowhere else, and told from anybody's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import psutil
from ray._private import ray_constants, services

LOOPBACK = ("127.0.0.1", "localhost", "::1")
RAYLET = "raylet"
"""Name of the process that makes a machine a node of a Ray cluster."""


@contextlib.contextmanager
def on_loopback(address: str | None) -> Iterator[None]:
    """Let `ray.init` start a Ray that listens on 127.0.0.1 only, its metrics included, or join such a one.

    On Linux Ray puts the machine's own address in the place of 127.0.0.1, wherever it is told that, unless it
    may not form clusters. Its variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1 undoes this.

    Args:
        address: Of the GCS to join; None for a Ray that is to be started.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if address is None:
        wanted = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ
    else:
        wanted = _is_on_loopback_only(address)
    if wanted:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def has_node_here(address: str) -> bool:
    """Whether this machine is a node of the cluster at an address, by a process of this user or of root.

    Whoever joins a cluster runs what it sends, so an address that only a file names is not to be joined; and
    Ray aborts a process that joins from a machine that is no node.

    Args:
        address: host:port of the cluster's GCS.
    """
    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        if process.info["name"] != RAYLET or process.info["uids"].real not in (0, os.getuid()):
            continue
        options = dict(option.split("=", 1) for option in process.info["cmdline"] if "=" in option)
        if options.get("--gcs-address") == address and _listens(options.get("--raylet_socket_name", "")):
            return True
    return False


def answers(address: str) -> bool:
    """Whether anybody listens at host:port: joining a dead cluster would take a minute to fail."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=2).close()
        return True
    return False


def _listens(path: str) -> bool:
    """Whether somebody listens at a socket's path; not that of a container's process, which is its own."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as found:
        found.settimeout(2)
        found.connect(path)
        return True
    return False


def _is_on_loopback_only(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return host.strip("[]") in LOOPBACK and not answers(f"{services.get_node_ip_address()}:{port}")

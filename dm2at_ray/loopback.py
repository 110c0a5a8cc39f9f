"""A Ray of this machine alone, which listens on 127.0.0.1 and nowhere else."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from ray._private import ray_constants, services

LOOPBACK = ("127.0.0.1", "localhost", "::1")


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


def answers(address: str) -> bool:
    """Whether anybody listens at host:port: joining a dead cluster would take a minute to fail."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host, int(port)), timeout=2).close()
        return True
    return False


def _is_on_loopback_only(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return host.strip("[]") in LOOPBACK and not answers(f"{services.get_node_ip_address()}:{port}")

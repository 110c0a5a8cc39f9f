"""The kernel's namespaces that make a machine of each node, by iproute2 and util-linux."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

END_SECONDS = 20

ISOLATE = ("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Host name, mounts and processes of one's own; whoever is in ends with the first of them."""


class ClusterError(Exception):
    """What is told in one line."""


def check() -> None:
    """Try what a cluster needs.

    Raises:
        ClusterError: This machine does not allow it.
    """
    if os.geteuid() != 0:
        raise ClusterError("network namespaces need root")
    for tool in ("ip", "unshare", "mount"):
        if shutil.which(tool) is None:
            raise ClusterError(f"{tool} is not installed (Debian: apt-get install iproute2 util-linux mount)")
    space = f"dm2at-check-{os.getpid()}"
    try:
        ip("netns", "add", space)
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        ip("-n", space, "link", "add", "switch", "type", "bridge")
        bind = ["sh", "-c", "echo check > /proc/sys/kernel/hostname && mount --bind /etc /mnt"]
        call(["ip", "netns", "exec", space, *ISOLATE, *bind])
    finally:
        with contextlib.suppress(ClusterError):
            ip("netns", "delete", space)


def end_processes(space: str) -> None:
    """End everything that runs in a network namespace."""
    deadline = time.monotonic() + END_SECONDS
    while left := processes(space):
        if time.monotonic() > deadline:
            raise ClusterError(f"{space}: processes {left} do not end")
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def remove(space: str) -> None:
    """Remove a network namespace and its links, with everything that runs in it."""
    end_processes(space)
    for link in json.loads(ip("-j", "-n", space, "link", "show")):
        # At once, and not whenever the kernel comes to it: the name is free when this returns.
        if link["ifname"] != "lo":
            ip("-n", space, "link", "delete", link["ifname"])
    ip("netns", "delete", space)


def processes(space: str) -> list[int]:
    """Everything that runs in a network namespace; the first process of a node is among the first."""
    return [int(process) for process in ip("netns", "pids", space).split()]


def spaces() -> list[str]:
    """Names of this machine's network namespaces."""
    return [space["name"] for space in json.loads(ip("-j", "netns", "list") or "[]")]


def ip(*arguments: str) -> str:
    """Call iproute2; return what it prints."""
    return call(["ip", *arguments])


def call(command: list[str]) -> str:
    """Call a command; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command[:8])}: {done.stderr.strip() or done.returncode}")
    return done.stdout

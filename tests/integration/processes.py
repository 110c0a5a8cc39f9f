"""Processes of a test, told by a variable of their environment that all their children inherit."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import time
from collections.abc import Iterable
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


def listening_addresses(processes: Iterable[int]) -> set[str]:
    """Addresses on which any of these processes accepts TCP connections."""
    inodes = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(descriptor))
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(local.partition(":")[0])
                # The kernel prints each four bytes as one number of this machine's byte order.
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                address = ipaddress.ip_address(packed)
                found.add(str(getattr(address, "ipv4_mapped", None) or address))
    return found


def _describe(process: int) -> str:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{process} ({command.strip()[:80]})"
    return str(process)

"""The lease on a run directory: at most one driver works on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dm2at_ray.errors import RunError
from dm2at_ray.store.files import Files

LEASE_FILE = "driver.json"
LIFETIME_SECONDS = 60.0
LOOK_SECONDS = 1.0


class Lease:
    """A file in the run directory that names its driver and is renewed while the driver lives.

    A lease that its holder released, that is older than `LIFETIME_SECONDS`, or whose process is known to be
    gone from this very machine is free. The named driver actor refuses a second driver within one Ray cluster
    at once, so a lease of the same cluster is free too; the lease refuses one between clusters. A holder on
    another machine is waited for until it renews the lease, and so lives, or has let it run out.

    Args:
        files: The run directory.
        owner: Who holds the lease: the same for a driver and its restarts.
        contact: How the driver can be asked, for `dm2at status`: plain values, kept in the lease as they are;
            `cluster` names the Ray cluster.
        now: The clock, in seconds since the epoch.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        files: Files,
        owner: str,
        contact: dict[str, str] | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = files
        self._owner = owner
        self._contact = contact or {}
        self._now = now
        self._sleep = sleep

    def acquire(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Take the lease, or take it over when it is free.

        Args:
            say: Takes a line about what is waited for.

        Raises:
            RunError: Another driver holds it.
        """
        holder = read_lease(self._files)
        if holder and holder["owner"] != self._owner and self._is_held(holder):
            holder = holder if is_here(holder) else self._next_word(holder, say)
        else:
            holder = {}
        if holder:
            raise RunError(
                f"run directory {self._files.root}: driver {holder['pid']} on {holder['host']} works on it "
                f"(seen {self._now() - holder['time']:.0f} s ago); wait for it, end it, or give another "
                "--run-dir"
            )
        self.renew()
        # Object stores have no exclusive create: whoever wrote last has it, and the other sees that here.
        if read_lease(self._files)["owner"] != self._owner:
            raise RunError(
                f"run directory {self._files.root}: another driver took it this moment; wait for it"
            )

    def renew(self) -> None:
        """Say that the holder lives."""
        self._files.write_json(
            LEASE_FILE,
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "boot": _boot_id(),
                "contact": self._contact,
                "time": self._now(),
            },
        )

    def release(self) -> None:
        """Give the lease back, when it is still this owner's."""
        if read_lease(self._files).get("owner") == self._owner:
            self._files.delete(LEASE_FILE)

    def _next_word(self, holder: dict, say: Callable[[str], None]) -> dict:
        """What a holder that cannot be looked at renews its lease to; an empty dict where it is dead."""
        say(
            f"driver {holder['pid']} on {holder['host']} may be at work on the run directory "
            f"(seen {self._now() - holder['time']:.0f} s ago); waiting for its next word"
        )
        # By this machine's clock alone, whatever the other's says.
        deadline = self._now() + LIFETIME_SECONDS
        while self._now() < deadline and self._is_held(holder):
            self._sleep(LOOK_SECONDS)
            seen = read_lease(self._files)
            if seen != holder:
                return seen
        return {}

    def _is_held(self, holder: dict) -> bool:
        if self._now() - holder["time"] > LIFETIME_SECONDS:
            return False
        cluster = holder["contact"].get("cluster")
        if cluster and cluster == self._contact.get("cluster"):
            # Its actor has lost its name to this one, so it is dead, on whatever node.
            return False
        return not is_here(holder) or _is_alive(holder["pid"])


def read_lease(files: Files) -> dict:
    """Who holds the run directory: owner, host, pid, boot, contact, time; an empty dict for nobody."""
    try:
        return files.read_json(LEASE_FILE)
    except FileNotFoundError:
        return {}


def has_spoken(holder: dict, now: float) -> bool:
    """Whether the holder of a lease (empty for nobody) is not known to be dead, and renewed it of late."""
    if not holder or now - holder["time"] > LIFETIME_SECONDS:
        return False
    return not is_here(holder) or _is_alive(holder["pid"])


def is_here(holder: dict) -> bool:
    """Whether the holder of a lease runs, or ran, on this very machine."""
    return holder["host"] == socket.gethostname() and holder["boot"] == _boot_id()


def _boot_id() -> str:
    """Tells machines (and containers of one host name) apart; empty where the system has no such id."""
    path = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    if not path.exists():
        return ""
    return f"{path.read_text().strip()} {os.readlink(namespace) if namespace.exists() else ''}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

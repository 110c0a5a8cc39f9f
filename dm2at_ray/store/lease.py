"""The lease on a directory: at most one process works on it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dm2at_ray.errors import RunError, UserError
from dm2at_ray.store.files import Files

LEASE_FILE = "driver.json"
LIFETIME_SECONDS = 60.0
RENEW_SECONDS = 10.0
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 0.5
"""Where two took the lease in the same moment, the first sees within this time that the other has it."""


@dataclass(frozen=True)
class Terms:
    """How errors and lines speak of what is leased.

    Attributes:
        place: The directory, such as `pool s3://bucket/pool`.
        holder: What holds it.
        work: What the holder does, such as `packs into it`.
        mend: What whoever is refused can do.
        error: What is raised then.
    """

    place: str
    holder: str
    work: str
    mend: str
    error: type[UserError]


class Lease:
    """A file in a directory that names who works on it and is renewed while that process lives.

    A lease that its holder released, that is older than `LIFETIME_SECONDS`, or whose process is known to be
    gone from this very machine is free. The named driver actor refuses a second driver within one Ray cluster
    at once, so a lease of the same cluster is free too; the lease refuses one between clusters. A holder on
    another machine is waited for until it renews the lease, and so lives, or has let it run out.

    Args:
        files: The directory.
        owner: Who holds the lease: the same for a driver and its restarts.
        contact: How the driver can be asked, for `dm2at status`: plain values, kept in the lease as they are;
            `cluster` names the Ray cluster.
        now: The clock, in seconds since the epoch.
        sleep: Waits for so many seconds.
        terms: Of what it is the lease; a run directory and its driver if left out.
    """

    def __init__(
        self,
        files: Files,
        owner: str,
        contact: dict[str, str] | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        terms: Terms | None = None,
    ) -> None:
        self._files = files
        self._owner = owner
        self._contact = contact or {}
        self._now = now
        self._sleep = sleep
        self._terms = terms or Terms(
            f"run directory {files.root}",
            "driver",
            "works on it",
            "wait for it, end it, or give another --run-dir",
            RunError,
        )

    def acquire(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Take the lease, or take it over when it is free.

        Args:
            say: Takes a line about what is waited for.

        Raises:
            UserError: Another one holds it.
        """
        holder = read_lease(self._files)
        if holder and holder["owner"] != self._owner and self._is_held(holder):
            holder = holder if is_here(holder) else self._next_word(holder, say)
        else:
            holder = {}
        if holder:
            raise self._refusal(holder)
        self.renew()
        self.check()

    def check(self) -> None:
        """See that nobody else has taken it.

        Object stores have no exclusive create: of two that took it in one moment, whoever wrote last has it.

        Raises:
            UserError: Somebody has, or it is gone.
        """
        holder = read_lease(self._files)
        if holder.get("owner") != self._owner:
            raise self._refusal(holder)

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

    @contextmanager
    def held(self, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Hold the lease, renewed by a thread, until the block ends.

        Args:
            say: Takes a line about what is waited for.

        Raises:
            UserError: Another one holds it, or nothing can be written there. One that takes it later is seen
                by `check`.
        """
        try:
            self.acquire(say)
            self._sleep(SETTLE_SECONDS)
            self.check()
        except OSError as error:
            reason = " ".join(str(error).split())
            raise self._terms.error(
                f"{self._terms.place}: {reason}; give a place that can be written"
            ) from error
        ended = threading.Event()
        renewing = threading.Thread(target=self._keep, args=(ended,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            self.release()

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                self.check()
                self.renew()
            except UserError:
                return  # The holder's own next check says so.
            except OSError:
                continue  # A store that does not answer now may do so the next time.

    def _next_word(self, holder: dict, say: Callable[[str], None]) -> dict:
        """What a holder that cannot be looked at renews its lease to; an empty dict where it is dead."""
        say(
            f"{self._terms.place}: {self._named(holder)} may be at work on it; waiting up to "
            f"{LIFETIME_SECONDS:.0f} s for its next word"
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

    def _refusal(self, holder: dict) -> UserError:
        terms = self._terms
        who = (
            f"{self._named(holder)} {terms.work} (seen {self._now() - holder['time']:.0f} s ago)"
            if holder
            else f"another {terms.holder} {terms.work}"
        )
        return terms.error(f"{terms.place}: {who}; {terms.mend}")

    def _named(self, holder: dict) -> str:
        return f"{self._terms.holder} {holder['pid']} on {holder['host']}"


def read_lease(files: Files) -> dict:
    """Who holds a directory: owner, host, pid, boot, contact, time; an empty dict for nobody."""
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

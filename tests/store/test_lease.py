"""At most one process works on a directory: a driver on its run, a command on what it makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dm2at_ray.errors import PoolError, RunError
from dm2at_ray.store import Lease, lease
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LEASE_FILE, LIFETIME_SECONDS, SETTLE_SECONDS, Terms, read_lease

HOLD = """
import sys, time
from dm2at_ray.store import Lease
from dm2at_ray.store.files import Files
with Lease(Files.at(sys.argv[1]), "the first").held():
    print("held", flush=True)
    time.sleep(60)
"""


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.at(str(tmp_path / "run"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pretend(files: Files, **facts: object) -> None:
    """Change what the lease says of its holder."""
    files.write_json(LEASE_FILE, {**read_lease(files), **facts})


def pid_of_the_dead() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_acquire__names_the_holder(files: Files, clock: Clock) -> None:
    Lease(files, "first", {"address": "10.0.0.1:6379"}, clock).acquire()
    lease = read_lease(files)
    assert (lease["owner"], lease["pid"], lease["host"]) == ("first", os.getpid(), socket.gethostname())
    assert lease["contact"] == {"address": "10.0.0.1:6379"}
    assert lease["time"] == 1000.0


def test_acquire__refuses_a_second_driver_in_one_line(files: Files, clock: Clock) -> None:
    Lease(files, "first", now=clock).acquire()
    clock.seconds += 7
    with pytest.raises(RunError) as refused:
        Lease(files, "second", now=clock).acquire()
    assert str(refused.value) == (
        f"run directory {files.root}: driver {os.getpid()} on {socket.gethostname()} works on it "
        "(seen 7 s ago); wait for it, end it, or give another --run-dir"
    )
    assert read_lease(files)["owner"] == "first"


def test_acquire__the_same_owner_again_renews(files: Files, clock: Clock) -> None:
    Lease(files, "first", now=clock).acquire()
    clock.seconds += 7
    Lease(files, "first", now=clock).acquire()
    assert read_lease(files)["time"] == 1007.0


def test_acquire__takes_over_an_expired_lease_only(files: Files, clock: Clock) -> None:
    Lease(files, "first", now=clock).acquire()
    clock.seconds += LIFETIME_SECONDS
    with pytest.raises(RunError):
        Lease(files, "second", now=clock).acquire()
    clock.seconds += 0.1
    Lease(files, "second", now=clock).acquire()
    assert read_lease(files)["owner"] == "second"


def test_renew__keeps_it(files: Files, clock: Clock) -> None:
    first = Lease(files, "first", now=clock)
    first.acquire()
    for _ in range(3):
        clock.seconds += LIFETIME_SECONDS - 1
        first.renew()
    with pytest.raises(RunError):
        Lease(files, "second", now=clock).acquire()


def test_acquire__a_dead_process_of_this_machine_holds_nothing(files: Files, clock: Clock) -> None:
    Lease(files, "first", now=clock).acquire()
    pretend(files, pid=pid_of_the_dead())
    Lease(files, "second", now=clock).acquire()
    assert read_lease(files)["owner"] == "second"


@pytest.mark.parametrize(
    "elsewhere", [{"host": "another"}, {"boot": "before the last restart, or elsewhere"}]
)
def test_acquire__another_machines_driver_is_refused_to_once_it_renews(
    files: Files, clock: Clock, elsewhere: dict[str, str]
) -> None:
    def renew(seconds: float) -> None:
        clock.seconds += seconds
        if clock.seconds >= 1010:
            pretend(files, time=clock.seconds)

    said: list[str] = []
    Lease(files, "first", now=clock).acquire()
    pretend(files, pid=pid_of_the_dead(), **elsewhere)
    with pytest.raises(RunError, match=r"works on it \(seen 0 s ago\)"):
        Lease(files, "second", now=clock, sleep=renew).acquire(said.append)
    assert clock.seconds == 1010
    (line,) = said
    lease = read_lease(files)
    assert line == (
        f"run directory {files.root}: driver {lease['pid']} on {lease['host']} may be at work on it; waiting "
        "up to 60 s for its next word"
    )


@pytest.mark.parametrize("skew", [0, -3600, 3600])
def test_acquire__another_machines_dead_driver_is_waited_for_until_its_lease_runs_out(
    files: Files, clock: Clock, skew: float
) -> None:
    Lease(files, "first", now=clock).acquire()
    pretend(files, host="another", time=clock.seconds + skew)
    clock.seconds += 20
    Lease(files, "second", now=clock, sleep=clock.sleep).acquire()
    assert read_lease(files)["owner"] == "second"
    assert clock.seconds <= 1020 + LIFETIME_SECONDS
    assert (clock.seconds == 1020) == (skew < 0)


def test_acquire__another_machines_driver_that_lets_go_meanwhile(files: Files, clock: Clock) -> None:
    first = Lease(files, "first", now=clock)
    first.acquire()
    pretend(files, host="another")
    Lease(files, "second", now=clock, sleep=lambda _: first.release()).acquire()
    assert read_lease(files)["owner"] == "second"


def test_acquire__a_process_of_another_user_is_alive(files: Files, clock: Clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def not_permitted(pid: int, number: int) -> None:
        raise PermissionError

    Lease(files, "first", now=clock).acquire()
    monkeypatch.setattr(os, "kill", not_permitted)
    with pytest.raises(RunError):
        Lease(files, "second", now=clock).acquire()


def test_acquire__who_is_overtaken_gives_way(files: Files, clock: Clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Both saw a free directory; the other's write came last."""
    write = Files.write_json

    def overtaken(self: Files, name: str, value: dict[str, object]) -> None:
        write(self, name, {**value, "owner": "second"})

    monkeypatch.setattr(Files, "write_json", overtaken)
    with pytest.raises(RunError, match=r"works on it \(seen 0 s ago\); wait for it"):
        Lease(files, "first", now=clock).acquire()


def test_release__frees_the_directory(files: Files, clock: Clock) -> None:
    first = Lease(files, "first", now=clock)
    first.acquire()
    first.release()
    assert read_lease(files) == {}
    Lease(files, "second", now=clock).acquire()


def test_release__leaves_anothers_lease(files: Files, clock: Clock) -> None:
    first = Lease(files, "first", now=clock)
    first.acquire()
    clock.seconds += LIFETIME_SECONDS + 1
    Lease(files, "second", now=clock).acquire()
    first.release()
    assert read_lease(files)["owner"] == "second"


def test_release__of_nothing(files: Files) -> None:
    Lease(files, "first").release()
    assert not files.exists(LEASE_FILE)


def test_acquire__a_lease_of_the_same_cluster_is_of_a_dead_driver(files: Files, clock: Clock) -> None:
    """Of another node's: the named actor has refused a second driver that lives."""
    Lease(files, "first", {"cluster": "session_1"}, clock).acquire()
    pretend(files, host="another-node")

    def renew(seconds: float) -> None:
        clock.seconds += seconds
        pretend(files, time=clock.seconds)

    for contact in ({"cluster": "session_2"}, {"cluster": ""}, {}):
        with pytest.raises(RunError):
            Lease(files, "second", contact, clock, renew).acquire()
    Lease(files, "second", {"cluster": "session_1"}, clock).acquire()
    assert read_lease(files)["owner"] == "second"


def test_held__refuses_another_process_and_forgets_a_killed_one(files: Files) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, files.root], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=f"driver {holder.pid} on .* works on it"),
            Lease(files, "x").held(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert read_lease(files)["owner"] == "the first"
    second = Lease(files, "second")
    with second.held():
        second.check()
    assert files.names() == []


def test_held__of_two_that_take_it_in_one_moment_the_later_has_it(files: Files, clock: Clock) -> None:
    other = Lease(files, "other", now=clock)

    def settle(seconds: float) -> None:
        assert seconds == SETTLE_SECONDS
        other.renew()

    with pytest.raises(RunError, match="works on it"), Lease(files, "first", now=clock, sleep=settle).held():
        pass
    assert read_lease(files)["owner"] == "other"


def test_held__is_renewed_until_it_is_lost(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    first = Lease(files, "first")
    with first.held():
        before = files.read_bytes(LEASE_FILE)
        deadline = time.monotonic() + 10
        while files.read_bytes(LEASE_FILE) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert files.read_bytes(LEASE_FILE) != before
        first.check()
        Lease(files, "other").renew()
        with pytest.raises(RunError, match="works on it"):
            first.check()
        taken = files.read_bytes(LEASE_FILE)
        time.sleep(0.3)
    # What another has taken is neither renewed nor released.
    assert files.read_bytes(LEASE_FILE) == taken


def test_held__outlives_a_store_that_is_silent_for_a_moment(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    first, times = Lease(files, "first"), 0
    renew = first.renew

    def sometimes() -> None:
        nonlocal times
        times += 1
        if times in (2, 3):  # the first one takes it
            raise OSError("silent")
        renew()

    monkeypatch.setattr(first, "renew", sometimes)
    with first.held():
        deadline = time.monotonic() + 10
        while times < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert times >= 5
        first.check()


def test_held__where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = Files.at(str(tmp_path / "file" / "run"))
    with pytest.raises(RunError, match="give a place that can be written"), Lease(below, "first").held():
        pass


def test_held__in_the_words_of_what_is_leased(files: Files, clock: Clock) -> None:
    terms = Terms("pool x", "process", "packs into it", "wait for it, or end it", PoolError)
    Lease(files, "first", now=clock).acquire()
    with pytest.raises(PoolError) as refused:
        Lease(files, "second", now=clock, terms=terms).acquire()
    assert str(refused.value) == (
        f"pool x: process {os.getpid()} on {socket.gethostname()} packs into it (seen 0 s ago); wait for it, "
        "or end it"
    )
    first = Lease(files, "third", now=clock, terms=terms)
    files.delete(LEASE_FILE)
    with pytest.raises(PoolError, match="pool x: another process packs into it; wait"):
        first.check()

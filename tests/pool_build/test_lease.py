from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dm2at_ray import pool_lease
from dm2at_ray.errors import PoolError
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool_lease import held
from dm2at_ray.store import Lease
from dm2at_ray.store.files import Files

HOLD = """
import sys, time
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool_lease import held
with held(PoolDirectory.at(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_held__refuses_another_process_and_forgets_a_killed_one(directory: PoolDirectory) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, directory.place.path], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PoolError) as error, held(directory, print):
            pass
        line = f"pool {directory.place.uri}: process {holder.pid} on "
        assert str(error.value).startswith(line)
        assert str(error.value).endswith("packs into it; wait for it, or end it")
    finally:
        holder.kill()
        holder.wait()
    with held(directory, print) as check:
        check()
    assert list(Path(directory.place.path).iterdir()) == []


def test_held__of_two_that_take_it_in_one_moment_the_later_has_it(
    directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = directory.place
    other = Lease(Files(place.filesystem, place.path), "other")

    def settle(seconds: float) -> None:
        other.renew()

    monkeypatch.setattr(pool_lease.time, "sleep", settle)
    with pytest.raises(PoolError, match="packs into it"), held(directory, print):
        pass


def test_held__is_renewed_until_it_is_lost(directory: PoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_lease, "RENEW_SECONDS", 0.05)
    path = Path(directory.place.path) / "driver.json"
    with held(directory, print) as check:
        before = path.read_bytes()
        deadline = time.monotonic() + 10
        while path.read_bytes() == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.read_bytes() != before
        check()
        Lease(Files(directory.place.filesystem, directory.place.path), "other").renew()
        with pytest.raises(PoolError, match="packs into it"):
            check()
        taken = path.read_bytes()
        time.sleep(0.3)
    # What another has taken is neither renewed nor released.
    assert path.read_bytes() == taken


def test_held__where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PoolError, match="give a place that can be written"),
        held(PoolDirectory.at(str(tmp_path / "file" / "pool")), print),
    ):
        pass

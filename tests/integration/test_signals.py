"""Ctrl-C and SIGTERM in mid-round: what is committed stays, nothing keeps running, the run goes on later."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.util import placement_group_table

from dm2at_ray import Config, run
from dm2at_ray.actor import NAMESPACE, driver_name
from dm2at_ray.stages.reservations import reservation_prefix
from dm2at_ray.status import read_status
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.lease import read_lease

from .commands import Command, wait_for, write_config
from .processes import listening_addresses, wait_until_gone

SECONDS = 180
GONE_SECONDS = 20
CTRL_C = b"\x03"
LAST_WORDS = "stopped; what is committed stays: the same command goes on from there"

LONG_ENOUGH = {"min_steps": 300, "batch_size": 16}
"""Trainings that are still going on when they are looked at."""

LONGER = LONG_ENOUGH | {"min_steps": 1000}
"""One that is still going on when a new process has asked for its status."""


class Terminal:
    """A terminal of 100 columns, and all that has been written to it."""

    def __init__(self, controller: int) -> None:
        self._controller = controller
        self._written = b""
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def text(self) -> str:
        """What was written, without the codes that move the cursor and colour."""
        written = self._written.decode(errors="replace").replace("\r", "\n")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._controller, keys)

    def _read(self) -> None:
        try:
            while part := os.read(self._controller, 65536):
                self._written += part
        except OSError:
            return  # The last process at the terminal has left.


@contextmanager
def terminal() -> Iterator[tuple[Terminal, int]]:
    """A terminal, and the file descriptor for a process to run at it."""
    controller, descriptor = pty.openpty()
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    try:
        yield Terminal(controller), descriptor
    finally:
        os.close(descriptor)
        os.close(controller)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file below was last written, and what is in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def living_actors_of_the_job(run_dir: Path) -> list[str]:
    """Classes of the actors that live in the Ray job that the driver of a run belongs to.

    Left out are the named detached ones, by which Ray Data serves all jobs of a cluster.
    """
    table = list(actors().values())
    jobs = {actor["JobID"] for actor in table if actor["Name"] == driver_name(str(run_dir))}
    return [
        actor["ActorClassName"]
        for actor in table
        if actor["JobID"] in jobs and actor["State"] != "DEAD" and not (actor["IsDetached"] and actor["Name"])
    ]


def reservations() -> list[str]:
    """Names of the placement groups that hold resources of the cluster."""
    return [facts["name"] for facts in placement_group_table().values() if facts["state"] != "REMOVED"]


@dataclass(frozen=True)
class Interrupted:
    """A run that was ended by a signal, and what was there a moment later."""

    config: Path
    run_dir: Path
    code: int
    words: str
    status: dict[str, Any]
    committed: dict[str, tuple[int, bytes]]
    """Files of round 0."""
    began: dict[str, tuple[int, bytes]]
    """Files of the round that was cut off."""


@pytest.fixture(scope="module")
def interrupted(joined: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    """Ctrl-C at a terminal, while round 1 trains on the session's cluster."""
    folder = tmp_path_factory.mktemp("ctrl-c")
    run_dir = folder / "run"
    config = write_config(folder / "tiny.yaml", training=LONG_ENOUGH)
    arguments = ("run", config, "--run-dir", run_dir)
    with (
        terminal() as (screen, descriptor),
        Command(*arguments, folder=folder, address=joined, terminal=descriptor) as command,
    ):
        training = re.compile(r"round 1/1 +train +\S* *[1-9]\d*/300 steps")
        wait_for(
            "the training of round 1",
            lambda: command.process.poll() is not None or training.search(screen.text),
            SECONDS,
        )
        assert {"DriverActor", "TrainController"} <= set(living_actors_of_the_job(run_dir)), screen.text
        assert any(name.startswith(reservation_prefix(str(run_dir), 1)) for name in reservations())
        screen.press(CTRL_C)
        code = command.end(SECONDS)
        yield Interrupted(
            config,
            run_dir,
            code,
            screen.text,
            read_status(str(run_dir)),
            contents(run_dir / "rounds" / "0000"),
            contents(run_dir / "rounds" / "0001"),
        )


@pytest.mark.ray
def test_terminal__shows_a_bar_with_the_round_and_the_stage(interrupted: Interrupted) -> None:
    bars = re.findall(r"round (\d)/1 +(\w+) +[━╸╺]+ +([\d,]+)/([\d,]+) (images|steps)", interrupted.words)
    assert {("0", "train", "steps"), ("1", "train", "steps")} <= {(bar[0], bar[1], bar[4]) for bar in bars}
    assert re.search(r"\d+/300 steps +\d+/s +\d+:\d\d left", interrupted.words)
    assert re.search(r"^round 1/1  embed +1,\d\d\d images in .*s", interrupted.words, re.MULTILINE)


@pytest.mark.ray
def test_ctrl_c__ends_with_code_130_and_says_what_stays(interrupted: Interrupted) -> None:
    assert interrupted.code == 128 + signal.SIGINT
    assert interrupted.words.rstrip().endswith(LAST_WORDS)
    assert not re.search(r"Traceback|raylet|ray\.kill", interrupted.words)


@pytest.mark.ray
def test_ctrl_c__leaves_a_status_that_says_so_and_no_lease(interrupted: Interrupted) -> None:
    assert (interrupted.status["phase"], interrupted.status["live"]) == ("interrupted", False)
    assert interrupted.status["round"] == 1
    assert [metrics["round"] for metrics in interrupted.status["rounds"]] == [0]
    assert "COMMITTED" in interrupted.committed
    assert read_lease(RunDirectory(str(interrupted.run_dir)).files) == {}


@pytest.mark.ray
def test_ctrl_c__leaves_no_actor_on_the_cluster(interrupted: Interrupted) -> None:
    wait_for(
        "no actor of the run",
        lambda: living_actors_of_the_job(interrupted.run_dir) == [],
        GONE_SECONDS,
    )
    wait_for("no reservation of the run", lambda: reservations() == [], GONE_SECONDS)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(driver_name(str(interrupted.run_dir)), namespace=NAMESPACE)


@pytest.mark.ray
def test_ctrl_c__the_run_goes_on_where_it_was(interrupted: Interrupted) -> None:
    """By the Python API, which returns what the run directory has."""
    result = run(Config.load(interrupted.config), interrupted.run_dir)
    assert result.run_dir == str(interrupted.run_dir)
    assert result.reason == "all 1 query rounds are done"
    rounds = RunDirectory(result.run_dir).committed_rounds()
    assert result.rounds == [round_.metrics() for round_ in rounds]
    assert [metrics["labeled"] for metrics in result.rounds] == [40, 60]
    assert contents(interrupted.run_dir / "rounds" / "0000") == interrupted.committed
    after = contents(interrupted.run_dir / "rounds" / "0001")
    for name in ("queries.parquet", "labels.parquet", "adversarial/part-00000.parquet"):
        assert after[name] == interrupted.began[name]


@pytest.mark.ray
def test_sigterm__ends_a_run_with_a_ray_of_its_own(tmp_path: Path) -> None:
    """While round 0 trains."""
    run_dir = tmp_path / "run"
    config = write_config(tmp_path / "tiny.yaml", training=LONGER, stop={"rounds": 0})
    with Command("run", config, "--run-dir", run_dir, folder=tmp_path) as command:
        wait_for(
            "the training of round 0",
            lambda: command.process.poll() is not None or _status(run_dir).get("stage") == "train",
            SECONDS,
        )
        with Command("status", run_dir, "--json", folder=tmp_path) as asked:
            assert asked.end(SECONDS) == 0, asked.stderr
            assert '"live": true' in asked.stdout, asked.stdout
        assert command.process.poll() is None, command.stderr
        assert len(command.processes()) > 5  # Ray's own among them
        assert listening_addresses(command.processes()) == {"127.0.0.1"}
        command.process.send_signal(signal.SIGTERM)
        assert command.end(SECONDS) == 128 + signal.SIGTERM
        assert command.stderr == f"{LAST_WORDS}\n"
        assert "raylet" not in command.stdout
        wait_for("no process of the command", lambda: not command.processes(), GONE_SECONDS)
        wait_until_gone(command.mark, GONE_SECONDS)
    status = read_status(str(run_dir))
    assert (status["phase"], status["round"], status["rounds"]) == ("interrupted", 0, [])
    assert read_lease(RunDirectory(str(run_dir)).files) == {}
    assert "labels.parquet" in contents(run_dir / "rounds" / "0000")


def _status(run_dir: Path) -> dict[str, Any]:
    return RunDirectory(str(run_dir)).status()

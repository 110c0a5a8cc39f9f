"""A driver that is killed by SIGKILL once at each of `DEATHS`; Ray starts it again and it carries on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dm2at_ray import oracles
from dm2at_ray.actor import DriverActor
from dm2at_ray.config import Config
from dm2at_ray.journal import Journal
from dm2at_ray.pool import SimulatedOracle
from dm2at_ray.store import RoundDirectory, RunDirectory

ROUND = 1
"""The round in which it dies (the pool is listed before any)."""

MID_STAGE = ("list pool", "embed", "neighbors", "score", "craft", "label", "train", "evaluate")
"""Dies when the stage has told of some progress: of its first piece, or of a checkpoint."""

BEFORE = {"commit": "before COMMITTED"}
"""Dies before the call of a round's method."""

DEATHS = (*MID_STAGE, *BEFORE.values())


class Chronicle:
    """What outlives the driver: its deaths, the training steps it heard of, the labels it asked for.

    Args:
        run_uri: The run directory; the chronicle lies beside it.
    """

    def __init__(self, run_uri: str) -> None:
        self.directory = Path(f"{run_uri}-chronicle")
        self.directory.mkdir(exist_ok=True)

    def die_once(self, death: str, **evidence: Any) -> None:
        """End this process, as `kill -9` does, unless an earlier one has died of this."""
        try:
            with (self.directory / f"{death}.death").open("x") as file:
                json.dump({"pid": os.getpid(), **evidence}, file)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def deaths(self) -> dict[str, dict[str, Any]]:
        """Death -> pid of the driver that died of it, and the evidence."""
        return {path.stem: json.loads(path.read_text()) for path in self.directory.glob("*.death")}

    def note(self, name: str, values: list[int]) -> None:
        """Add this process's id and some numbers to a list."""
        with (self.directory / f"{name}.list").open("a") as file:
            file.write(json.dumps([os.getpid(), *values]) + "\n")

    def has(self, name: str) -> bool:
        """Whether anything was noted under a name."""
        return (self.directory / f"{name}.list").exists()

    def notes(self, name: str) -> list[list[int]]:
        """The lists of a name, in the order in which they were noted."""
        return [json.loads(line) for line in (self.directory / f"{name}.list").read_text().splitlines()]


class MortalDriver(DriverActor):
    """The real driver, with deaths; it also notes which ids it asks the oracle for."""

    def make_journal(self) -> Journal:
        chronicle = Chronicle(self._run.uri)
        # Replaced for good, because this process is the driver's own.
        oracles.SimulatedOracle = _noting_oracle(chronicle)  # type: ignore[misc]
        for method, death in BEFORE.items():
            setattr(RoundDirectory, method, _deadly(getattr(RoundDirectory, method), death, chronicle))
        return _MortalJournal(self._run, self._config, self._plan.class_names, chronicle)


class _MortalJournal(Journal):
    def __init__(
        self, run: RunDirectory, config: Config, class_names: list[str], chronicle: Chronicle
    ) -> None:
        super().__init__(run, config, class_names)
        self._chronicle = chronicle

    def advanced(self, done: int, total: int) -> None:
        super().advanced(done, total)
        stage, round_ = self._status["stage"], self._run.round(self._status["round"])
        if stage == "list pool":
            self._chronicle.die_once(stage)
        elif round_.index != ROUND:
            return
        elif stage == "label":
            self._chronicle.die_once(stage, labels=round_.files.read_bytes("labels.parquet").hex())
        elif stage == "train":
            if total:  # The last word of the stage is of its images.
                self._chronicle.note("steps", [done])
            kept = _epoch_kept(round_)
            if kept and done < total:
                self._chronicle.die_once(
                    stage, epoch=kept, steps_per_epoch=total // self._config.training.epochs
                )
        elif stage in MID_STAGE:
            self._chronicle.die_once(stage, done=done, total=total)


def _deadly(method: Callable[..., None], death: str, chronicle: Chronicle) -> Callable[..., None]:
    def die_first(round_: RoundDirectory, *arguments: Any) -> None:
        if round_.index == ROUND:
            chronicle.die_once(death)
        method(round_, *arguments)

    return die_first


def _noting_oracle(chronicle: Chronicle) -> type[SimulatedOracle]:
    class Noting(SimulatedOracle):
        def label(self, sample_ids: np.ndarray) -> np.ndarray:
            chronicle.note("asked", sample_ids.tolist())
            return super().label(sample_ids)

    return Noting


def _epoch_kept(round_: RoundDirectory) -> int:
    """The last epoch of which Ray Train has kept a checkpoint; 0 for none."""
    try:
        snapshot = round_.files.read_json("train/fit/checkpoint_manager_snapshot.json")
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    return int(snapshot["latest_checkpoint_result"]["metrics"]["epoch"])

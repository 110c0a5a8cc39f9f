"""A driver whose trainings note which images are read and which samples are trained on, and are disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray.train
from ray.train import ScalingConfig

from dm2at_ray.actor import DriverActor
from dm2at_ray.journal import Journal
from dm2at_ray.pool import Pool
from dm2at_ray.stages import labeled_set
from dm2at_ray.stages import train as train_stage
from dm2at_ray.training import loop
from dm2at_ray.training.placed import PlacedSet

from .mortal import Chronicle

HOLD_SECONDS = 240
RESIZE_SECONDS = 1


@dataclass(frozen=True)
class Step:
    """One worker's share of one step."""

    pid: int
    epoch: int
    step: int
    rank: int
    workers: int
    owns_images: bool
    ids: tuple[int, ...]


Disturb = Callable[[Chronicle, Step], None]
"""Called before each step of each worker."""


class WatchedDriver(DriverActor):
    """The real driver; what its trainings do is noted in a chronicle, and subclasses disturb it."""

    disturb: ClassVar[Disturb]

    def make_journal(self) -> Journal:
        chronicle = Chronicle(self._run.uri)
        # Replaced for good, because this process is the driver's own.
        labeled_set._read_images = partial(_noting_read, labeled_set._read_images, chronicle)
        train_stage._train_worker = _watched(train_stage._train_worker, chronicle, type(self).disturb)
        train_stage.ScalingConfig = partial(ScalingConfig, elastic_resize_monitor_interval_s=RESIZE_SECONDS)
        return super().make_journal()


class KillsAWorker(WatchedDriver):
    """One of two training workers dies in the middle of an epoch that follows no checkpoint."""

    EPOCH = 6

    @staticmethod
    def disturb(chronicle: Chronicle, step: Step) -> None:
        if (step.epoch, step.step, step.rank) == (KillsAWorker.EPOCH, 1, 1):
            chronicle.die_once("worker", epoch=step.epoch)


class Resized(WatchedDriver):
    """One worker waits until there are two, and these until one of them is gone."""

    GROWS, SHRINKS = 5, 9

    @staticmethod
    def disturb(chronicle: Chronicle, step: Step) -> None:
        has_grown = chronicle.has("grown")
        if step.workers == 1 and step.epoch == Resized.GROWS and not has_grown:
            chronicle.note("alone", [])
            _hold()
        if step.workers == 2 and step.epoch == Resized.SHRINKS:
            chronicle.note("grown", [])
            _hold()


def steps_of(directory: Path) -> list[Step]:
    """What the training workers of a run did, in the order in which they did it."""
    notes = Chronicle(str(directory)).notes("steps")
    return [
        Step(pid, epoch, step, rank, workers, bool(owns), tuple(ids))
        for pid, epoch, step, rank, workers, owns, *ids in notes
    ]


def _noting_read(
    read: Callable[..., pa.Table], chronicle: Chronicle, batch: dict[str, np.ndarray], **kwargs: Any
) -> pa.Table:
    chronicle.note("read by a task", batch["sample_id"].tolist())
    return read(batch, **kwargs)


def _watched(
    train_worker: Callable[[dict[str, Any]], dict[str, Any]], chronicle: Chronicle, disturb: Disturb
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def watched(arguments: dict[str, Any]) -> dict[str, Any]:
        context = ray.train.get_context()
        rank, workers = context.get_world_rank(), context.get_world_size()
        read, load_batch = Pool.read, loop.load_batch
        steps: dict[int, int] = {}

        def noting_read(pool: Pool, ids: np.ndarray) -> np.ndarray:
            chronicle.note("read by a worker", ids.tolist())
            return read(pool, ids)

        def noting_load(placed: PlacedSet, share: np.ndarray, *args: Any, epoch: int, **kwargs: Any) -> Any:
            steps[epoch] = steps.get(epoch, -1) + 1
            ids = placed.labeled.sample_ids[share].tolist()
            facts = (epoch, steps[epoch], rank, workers, placed.labeled.images.flags.writeable)
            disturb(chronicle, Step(0, *facts, tuple(ids)))
            chronicle.note("steps", [*map(int, facts), *ids])
            return load_batch(placed, share, *args, epoch=epoch, **kwargs)

        # The worker's process ends with it.
        Pool.read, loop.load_batch = noting_read, noting_load
        return train_worker(arguments)

    return watched


def _hold() -> None:
    """Wait for the end of this worker."""
    time.sleep(HOLD_SECONDS)
    raise TimeoutError("nobody has ended this worker")

"""Ray tasks over a pool: as many at once as there are CPUs, with their progress and errors as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import ray

from dm2at_ray.actor import find_user_error
from dm2at_ray.config import Config
from dm2at_ray.launch import LOOK_SECONDS, joined_ray
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.monitoring.snapshot import Snapshot, StageLine

OBJECT_STORE_BYTES = 256 << 20
"""Of a Ray that is started here: only listings go through it, never images."""

WAITING = 2
"""Tasks that are ready to run when another one ends."""


class Stages:
    """Tells a view of one stage after the other.

    Args:
        view: Where to show it.
    """

    def __init__(self, view: ProgressView) -> None:
        self._view = view
        self._finished: tuple[StageLine, ...] = ()
        self._stage, self._started, self._done = "", 0.0, 0

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self._stage, self._started = stage, time.time()
        self.tell(0, None)

    def tell(self, done: int, total: int | None) -> None:
        """Images done, and those there are in all where that is known."""
        self._done = done
        self._view.update(
            Snapshot(
                None,
                None,
                stage=self._stage,
                done=done,
                total=total,
                started=self._started,
                seconds=time.time() - self._started,
                finished=self._finished,
            )
        )

    def end(self, note: str = "") -> None:
        """It is done."""
        seconds = time.time() - self._started
        line = StageLine(len(self._finished) + 1, None, self._stage, seconds, self._done, note)
        self._finished = (*self._finished, line)
        self._stage = ""
        self._view.update(Snapshot(None, None, finished=self._finished))


def ray_for_pools() -> AbstractContextManager[None]:
    """Ray as it is found, or a small one that is started here."""
    return joined_ray(Config.from_mapping({"compute": {"object_store_bytes": OBJECT_STORE_BYTES}}))


def gather(
    started: Iterator[tuple[int, ray.ObjectRef | None]],
    stages: Stages,
    count: Callable[[Any], int] | None = None,
) -> Generator[Any, None, None]:
    """Start tasks as others end, and yield what each returned, in the order in which they end.

    Args:
        started: Starts the next task when it is advanced; gives the images that it is about, and it, or None
            where nothing is left to do about them.
        stages: Told of the images that are done.
        count: What a task returned -> the images that it was about, where `started` cannot know.

    Raises:
        UserError: As a task raised it.
    """
    most = int(ray.cluster_resources().get("CPU", 1)) + WAITING
    running: dict[ray.ObjectRef, int] = {}
    done = listed = 0
    more = True
    try:
        while more or running:
            while more and len(running) < most:
                images, ref = next(started, (-1, None))
                more = images >= 0
                listed += max(0, images)
                if ref is not None:
                    running[ref] = images
                else:
                    done += max(0, images)
            stages.tell(done, None if more or count else listed)
            ended, _ = ray.wait(list(running), timeout=LOOK_SECONDS) if running else ([], [])
            for ref in ended:
                result = ray.get(ref)
                yield result
                done += running.pop(ref) + (count(result) if count else 0)
        stages.tell(done, done if count else listed)
    except ray.exceptions.RayError as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        raise user_error from None
    finally:
        for ref in running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)

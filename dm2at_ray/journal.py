"""What the driver tells the world: the live snapshot, status.json, the costs of stages, the metrics."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dm2at_ray.config import Config
from dm2at_ray.monitoring.metrics import RunMetrics
from dm2at_ray.monitoring.snapshot import Snapshot, StageLine
from dm2at_ray.stages.context import Progress
from dm2at_ray.store import RoundDirectory, RunDirectory

SELECTING = ("embed", "neighbors", "score", "craft", "label")
"""Stages of the phase `selecting`; the others belong to `training`."""

TELL_SECONDS, TELL_STORE_SECONDS = 2.0, 5.0
"""How long a stage's progress may go unwritten on a disk, and on an object store, where writes cost money."""

logger = logging.getLogger(__name__)


class Journal:
    """Keeps the run's visible state in one place; safe to ask from other threads.

    Args:
        run: The run directory.
        config: Of the run.
        class_names: Names of the classes.
    """

    def __init__(self, run: RunDirectory, config: Config, class_names: list[str]) -> None:
        self._run = run
        self._config = config
        self.metrics = RunMetrics(config.name, class_names)
        self.metrics.label_budget_set(config.stop.label_budget)
        self.metrics.limits_set(
            rejected=config.data.max_rejected_fraction, recall=config.neighbors.recall_target
        )
        self._lock = threading.Lock()
        # Held while status.json is written, so that the last word stays the last; `_lock` never waits for it.
        self._writing = threading.Lock()
        self._driver = uuid.uuid4().hex
        self._finished: list[StageLine] = []
        self._notices: list[str] = []
        self._closed = False
        self._status: dict[str, Any] = {"phase": "starting", "round": 0, "stage": "", "labeled": 0, "pool": 0}
        self._stage_started = 0.0
        self._done, self._total, self._unit = 0, 0, "images"
        self._tell_seconds = TELL_SECONDS if run.files.local_root is not None else TELL_STORE_SECONDS

    def phase(self, phase: str, **facts: Any) -> None:
        """Move the run into a phase and note further facts in its status; nothing is noted after `close`."""
        with self._writing:
            self._enter(phase, facts)

    def close(self, phase: str, **facts: Any) -> None:
        """Have the last word: a stage that is being torn down may still speak up, and is not heard."""
        with self._writing:
            self._enter(phase, {"stage": "", **facts})
            self._closed = True

    def notice(self, text: str) -> None:
        """Have a line shown to whoever follows the run."""
        with self._lock:
            self._notices.append(text)

    def sizes(self, *, labeled: int, pool: int, rejected: int) -> None:
        """Note the sizes of L and U, and the images set aside."""
        self.metrics.sizes_changed(labeled=labeled, pool=pool, rejected=rejected)
        with self._lock:
            self._status |= {"labeled": labeled, "pool": pool, "rejected": rejected}

    @contextmanager
    def stage(self, round_: RoundDirectory | None, name: str, unit: str = "images") -> Iterator[Progress]:
        """Time a stage, show its progress, and note its cost in the round's folder when it is done.

        How far it is also goes to status.json, for those who cannot ask the driver: every few seconds, by a
        thread of its own, so that a slow or broken store holds no stage up.

        Yields:
            What the stage tells its progress to; its last word is the number of images that it worked on.
        """
        began = time.monotonic()
        with self._lock:
            self._stage_started = time.time()
            self._done, self._total, self._unit = 0, 0, unit
        index = round_.index if round_ is not None else 0
        self.phase(
            "selecting" if name in SELECTING else "training" if round_ else "starting",
            round=index,
            stage=name,
        )
        images = 0
        nodes: dict[str, int] = {}

        def progress(done: int, total: int, node: str | None = None) -> None:
            nonlocal images
            if done < images:
                # Another pass over fewer images, as by a dearer score.
                nodes.clear()
                images = 0
            if node is not None:
                nodes[node] = nodes.get(node, 0) + done - images
            images = done
            self.advanced(done, total)
            if unit == "images" and round_ is not None:
                self.metrics.stage_advanced(name, time.monotonic() - began, images, nodes)

        over = threading.Event()
        threading.Thread(target=self._keep_telling, args=(over,), name="progress", daemon=True).start()
        try:
            yield progress
        finally:
            over.set()
        # As the round's folder keeps it: a counter that is restored from there must not come back smaller.
        seconds = round(time.monotonic() - began, 3)
        if round_ is not None:
            round_.add_stage_cost(name, seconds, images, nodes)
            self.metrics.stage_finished(name, seconds, images, nodes)
        with self._lock:
            self._status["stage"] = ""
            self._finished.append(StageLine(len(self._finished) + 1, index, name, seconds, images))

    def advanced(self, done: int, total: int) -> None:
        """Note how far the stage in progress is."""
        with self._lock:
            self._done, self._total = done, total
        self.metrics.progressed()

    def classes(self, names: list[str]) -> None:
        """Note the names of the classes, after some have come to the end of them."""
        self.metrics.classes_known(names)

    def committed(self, metrics: dict[str, Any]) -> None:
        """Take over what a committed round reported."""
        self.metrics.round_committed(metrics)

    def restore(self) -> None:
        """Go on with the counters of the rounds that are committed and of the stages done in the open one."""
        rounds = self._run.rounds()
        open_costs = next((r.stage_costs() for r in rounds if not r.committed), {})
        self.metrics.restore([r.metrics() for r in rounds if r.committed], costs_by_kind(open_costs))

    def snapshot(self) -> Snapshot:
        """Where the run is now."""
        with self._lock:
            return Snapshot(
                round=self._status["round"],
                rounds=self._config.stop.rounds,
                stage=self._status["stage"],
                done=self._done,
                total=self._total or None,
                unit=self._unit,
                started=self._stage_started,
                seconds=time.time() - self._stage_started,
                finished=tuple(self._finished),
                driver=self._driver,
                notices=tuple(self._notices),
            )

    def status(self) -> dict[str, Any]:
        """The live status: status.json's fields, and how far the stage is."""
        with self._lock:
            return self._word()

    def _word(self) -> dict[str, Any]:
        """What is so now; only under the lock."""
        done, total = (self._done, self._total) if self._status["stage"] else (0, 0)
        return {**self._status, "done": done, "total": total, "unit": self._unit, "time": time.time()}

    def _keep_telling(self, over: threading.Event) -> None:
        """Write how far the stage is, as often as that is worth it, until it is over."""
        told = (0, 0)
        while not over.wait(self._tell_seconds):
            with self._writing:
                if over.is_set() or self._closed:
                    return
                with self._lock:
                    word = self._word()
                if (word["done"], word["total"]) == told:
                    continue
                try:
                    self._run.write_status(word)
                except Exception as error:  # Whatever it is, the stage goes on.
                    logger.warning("%s: the progress could not be written: %s", self._run.uri, error)
                    continue
                told = (word["done"], word["total"])

    def _enter(self, phase: str, facts: dict[str, Any]) -> None:
        if self._closed:
            return
        if phase == "awaiting_labels":
            facts = {**facts, "awaiting_since": self._awaiting_since(facts.get("round"))}
        self.metrics.labels_awaited(facts.get("awaiting_since"))
        with self._lock:
            self._status |= {"phase": phase, **facts}
            status = self._word()
        self.metrics.round_started(status["round"])
        self.metrics.phase_changed(phase)
        self._run.write_status(status)

    def _awaiting_since(self, round_index: int | None) -> float:
        """Since when a round's labels are awaited: a driver that only looks again does not begin anew."""
        before = self._run.status()
        waits = before.get("phase") == "awaiting_labels" and before.get("round") == round_index
        return before["awaiting_since"] if waits and "awaiting_since" in before else time.time()


def costs_by_kind(costs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Costs of stages as metrics.json has them: for each kind of cost a mapping from the stage to it."""
    return {
        "stage_seconds": {stage: cost["seconds"] for stage, cost in costs.items()},
        "stage_images": {stage: cost["images"] for stage, cost in costs.items()},
        "stage_images_by_node": {stage: cost["nodes"] for stage, cost in costs.items() if cost.get("nodes")},
    }

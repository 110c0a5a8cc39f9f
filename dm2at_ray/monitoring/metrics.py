"""The round-level Prometheus metrics of one run, owned by one process.

Ray's own metrics drop a gauge that is not set again and again, keep the counters of dead workers and round
the sums of histograms, so what a round reports is counted here, with prometheus_client, in the driver alone.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dm2at_ray.monitoring.class_labels import class_labels, grouped_means, grouped_sums
from dm2at_ray.monitoring.instruments import SCORE_BUCKETS, Instruments
from dm2at_ray.monitoring.names import ATTACKS, COLLAPSES, NODE_STAGES, PHASES, STAGES, RoundMetrics
from dm2at_ray.monitoring.node_labels import NodeLabels
from dm2at_ray.monitoring.server import MetricsServer, serve_registry


class RunMetrics:
    """Metrics of one run, all named ``dm2at_...``, in base units, and labeled by ``run``.

    Counters exist at 0 from the start, so that ``rate()`` sees their first increment. Gauges of something not
    measured yet (accuracy, loss) have no series, because 0 would be a claim. Stages are counted as they
    finish; queries, scores, accuracies and losses when their round is committed. After each commit every
    counter equals the sum over the run directory's ``metrics.json`` files, so `restore` continues it exactly.

    Args:
        run: Value of the ``run`` label.
        class_names: Names of the classes; only the first 1,000 have series of their own (see `class_labels`).

    Examples:
        >>> metrics = RunMetrics("digits", ["zero", "one"])
        >>> metrics.round_started(1)
        >>> metrics.stage_finished("embed", seconds=2.5, images=100)
        >>> metrics.registry.get_sample_value("dm2at_stage_images_total", {"run": "digits", "stage": "embed"})
        100.0
    """

    def __init__(self, run: str, class_names: Sequence[str]) -> None:
        self._run = run
        self._series = Instruments()
        self.registry = self._series.registry
        self.classes_known(class_names)
        self._node_labels = NodeLabels()
        self._budget = math.inf
        self._open_round: dict[str, tuple[float, int]] = {}
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for unlabeled in (
            self._series.round,
            self._series.labeled,
            self._series.pool,
            self._series.rejected,
            self._series.committed,
            self._series.scores,
        ):
            unlabeled.labels(self._run)
        self.label_budget_set(None)
        self.phase_changed("starting")
        for stage in STAGES:
            self._series.stage_seconds.labels(self._run, stage)
            self._series.stage_images.labels(self._run, stage)
        for kind in COLLAPSES:
            self._series.collapses.labels(self._run, kind)
            self._series.collapsed.labels(self._run, kind)
        self._series.awaited_since.labels(self._run)
        for bound in (*SCORE_BUCKETS, math.inf):
            self._series.round_scores.labels(self._run, _le(bound))
        self.progressed()

    def classes_known(self, class_names: Sequence[str]) -> None:
        """State the classes anew, after some have come to the end of them."""
        self._class_labels = class_labels(class_names)
        for label in self._class_labels:
            self._series.queries.labels(self._run, label)

    def label_budget_set(self, labels: int | None) -> None:
        """State how many labels the run may ask for in all (None: no limit)."""
        self._budget = math.inf if labels is None else labels
        self._series.budget.labels(self._run).set(self._budget)
        self._series.budget_left.labels(self._run).set(self._budget)

    def limits_set(self, *, rejected: float, recall: float) -> None:
        """State the share of images that may be unreadable, and the recall that the search aims at."""
        self._series.rejected_limit.labels(self._run).set(rejected)
        self._series.recall_target.labels(self._run).set(recall)

    def session_joined(self, session: str) -> None:
        """State which Ray session drives the run, under the name that Ray's own metrics have it."""
        self._series.info.labels(self._run, session).set(1)

    def disk_watched(self, free: Callable[[], float], size: Callable[[], float]) -> None:
        """Show the space where the run directory lies, asked for anew with every scrape."""
        self._series.disk_free.labels(self._run).set_function(free)
        self._series.disk_size.labels(self._run).set_function(size)

    def nodes_joined(self, nodes: Iterable[str]) -> None:
        """Have counters of these nodes begin at 0 before they have done anything."""
        for node in nodes:
            for stage in NODE_STAGES:
                self._series.node_images.labels(self._run, stage, self._node_labels.of(node))

    def progressed(self) -> None:
        """Note that the run has got somewhere just now."""
        self._series.progress_time.labels(self._run).set(time.time())

    def labels_awaited(self, since: float | None) -> None:
        """State since when people are asked for labels, in Unix time; None when they are not."""
        self._series.awaited_since.labels(self._run).set(since or 0.0)

    def phase_changed(self, phase: str) -> None:
        """Move the run into one of `PHASES`.

        Raises:
            ValueError: for any other phase.
        """
        if phase not in PHASES:
            raise ValueError(f"phase {phase!r} is none of {', '.join(PHASES)}")
        for known in PHASES:
            self._series.phase.labels(self._run, known).set(known == phase)

    def round_started(self, round_index: int) -> None:
        """State which round the run is in."""
        self._series.round.labels(self._run).set(round_index)

    def sizes_changed(self, *, labeled: int, pool: int, rejected: int) -> None:
        """State the sizes of the labeled set and of the unlabeled pool, and the images set aside."""
        self._series.labeled.labels(self._run).set(labeled)
        self._series.budget_left.labels(self._run).set(max(0.0, self._budget - labeled))
        self._series.pool.labels(self._run).set(pool)
        self._series.rejected.labels(self._run).set(rejected)

    def stage_advanced(
        self, stage: str, seconds: float, images: int, nodes: Mapping[str, int] | None = None
    ) -> None:
        """Show how fast a stage is: in the wall seconds since it began so many images, and by node."""
        if seconds <= 0:
            return
        self._series.stage_rate.labels(self._run, stage).set(images / seconds)
        for label, done in self._node_labels.sums(nodes or {}):
            self._series.node_rate.labels(self._run, stage, label).set(done / seconds)

    def stage_finished(
        self, stage: str, seconds: float, images: int, nodes: Mapping[str, int] | None = None
    ) -> None:
        """Count one finished stage of the open round: its wall seconds and the images it worked on."""
        self.progressed()
        self.stage_advanced(stage, seconds, images, nodes)
        for label, done in self._node_labels.sums(nodes or {}):
            self._series.node_images.labels(self._run, stage, label).inc(done)
        self._series.stage_seconds.labels(self._run, stage).inc(seconds)
        self._series.stage_images.labels(self._run, stage).inc(images)
        self._series.stage_last.labels(self._run, stage).set(seconds)
        counted_seconds, counted_images = self._open_round.get(stage, (0.0, 0))
        self._open_round[stage] = (counted_seconds + seconds, counted_images + images)

    def losses_measured(self, losses: Mapping[str, float]) -> None:
        """Show the losses by kind (clean, adversarial, total), while training or after it."""
        for kind, value in losses.items():
            self._series.loss.labels(self._run, kind).set(value)

    def validation_measured(self, accuracy: Mapping[str, float]) -> None:
        """Show the accuracies on the validation part by attack, while training or after it."""
        for attack, value in accuracy.items():
            self._series.validation_accuracy.labels(self._run, attack).set(value)

    def collapse_seen(self, collapse: str | None) -> None:
        """Show what the last look at a training has found: one of `COLLAPSES`, or None for none."""
        for kind in COLLAPSES:
            self._series.collapsed.labels(self._run, kind).set(kind == collapse)

    def round_committed(self, metrics: RoundMetrics) -> None:
        """Take over everything a round reported, given its ``metrics.json``.

        Stages that `stage_finished` has counted are not counted twice; those it has not (done before the
        driver was restarted) are counted now.
        """
        self.round_started(metrics["round"])
        self.sizes_changed(labeled=metrics["labeled"], pool=metrics["pool"], rejected=metrics["rejected"])
        self._count_uncounted_stages(metrics)
        self._open_round.clear()
        for label, queries in grouped_sums(self._class_labels, metrics.get("queries_by_class", ())):
            self._series.queries.labels(self._run, label).inc(queries)
        self._count_scores(metrics.get("query_scores", ()))
        self._series.evaluated.labels(self._run).set(metrics["labeled"])
        self._show_accuracy(metrics)
        self._show_recall(metrics)
        self._take_looks((metrics.get("training") or {}).get("stability") or {})
        self.losses_measured({kind: v for kind, v in metrics.get("loss", {}).items() if v is not None})
        self._series.committed.labels(self._run).inc()

    def _count_scores(self, scores: Sequence[float]) -> None:
        for score in scores:
            self._series.scores.labels(self._run).observe(score)
        ascending = sorted(scores)
        for bound in (*SCORE_BUCKETS, math.inf):
            self._series.round_scores.labels(self._run, _le(bound)).set(bisect_right(ascending, bound))

    def _count_uncounted_stages(self, metrics: RoundMetrics) -> None:
        for stage, (seconds, images, nodes) in _costs(metrics).items():
            counted_seconds, counted_images = self._open_round.get(stage, (0.0, 0))
            if stage not in self._open_round:
                self.stage_finished(stage, seconds, images, nodes)
            else:
                self._series.stage_seconds.labels(self._run, stage).inc(max(0.0, seconds - counted_seconds))
                self._series.stage_images.labels(self._run, stage).inc(max(0, images - counted_images))
                self._series.stage_last.labels(self._run, stage).set(seconds)

    def _show_accuracy(self, metrics: RoundMetrics) -> None:
        for attack, accuracy in metrics.get("accuracy", {}).items():
            if accuracy is not None:
                self._series.accuracy.labels(self._run, attack).set(accuracy)
        for attack, by_class in metrics.get("accuracy_by_class", {}).items():
            for label, accuracy in grouped_means(self._class_labels, by_class):
                self._series.class_accuracy.labels(self._run, attack, label).set(accuracy)
        if metrics.get("train_accuracy") is not None:
            self._series.train_accuracy.labels(self._run).set(metrics["train_accuracy"])

    def _take_looks(self, stability: Mapping[str, Any]) -> None:
        """Count the collapses that were answered; one that lasts over several looks is one."""
        looks = stability.get("looks") or ()
        for look in looks:
            if look["answer"] is not None:
                self._series.collapses.labels(self._run, look["collapse"]).inc()
        self.collapse_seen(looks[-1]["collapse"] if looks else None)
        if looks:
            self.validation_measured({attack: looks[-1][attack] for attack in ATTACKS})

    def _show_recall(self, metrics: RoundMetrics) -> None:
        search = metrics.get("neighbors") or {}
        if "recall" in search:
            self._series.recall.labels(self._run).set(search["recall"])
            self._series.recall_low.labels(self._run).set(search["recall_interval"][0])

    def restore(self, rounds: Iterable[RoundMetrics], open_round: RoundMetrics | None = None) -> None:
        """Set everything from the run directory after a restart, so that counters go on where they stood.

        Args:
            rounds: The ``metrics.json`` of every committed round, in order.
            open_round: What is known of the round in progress, ``stage_seconds`` and ``stage_images`` of the
                stages it has finished. Without it the counters fall back to the last commit, which Prometheus
                reads as a counter reset.

        Raises:
            ValueError: if something has been counted already.
        """
        if self._open_round or self.registry.get_sample_value(
            "dm2at_rounds_committed_total", {"run": self._run}
        ):
            raise ValueError("restore a run's metrics before counting anything")
        for metrics in rounds:
            self.round_committed(metrics)
        if open_round is not None:
            for stage, (seconds, images, nodes) in _costs(open_round).items():
                self.stage_finished(stage, seconds, images, nodes)

    def serve(self, host: str, port: int) -> MetricsServer:
        """Answer ``GET /metrics`` on ``host:port``, or on the next free port (see `serve_registry`)."""
        return serve_registry(self.registry, host, port)


def _costs(metrics: RoundMetrics) -> dict[str, tuple[float, int, Mapping[str, int]]]:
    """Stage -> its wall seconds, its images, and these by node."""
    images, nodes = metrics.get("stage_images", {}), metrics.get("stage_images_by_node", {})
    return {
        stage: (seconds, images.get(stage, 0), nodes.get(stage, {}))
        for stage, seconds in metrics.get("stage_seconds", {}).items()
    }


def _le(bound: float) -> str:
    """A bucket's upper bound as prometheus_client writes it."""
    return "+Inf" if bound == math.inf else str(bound)

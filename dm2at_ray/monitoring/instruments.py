"""The series a run exposes: their names, units, labels and help texts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

# Margin, least confidence and random scores lie in [0, 1], where queries crowd at the top; entropy lies in
# [0, ln C], which is 2.3 for 10 classes and 6.9 for 1,000.
UNIT_BUCKETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
ENTROPY_BUCKETS = (1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0)


SCORE_BUCKETS = UNIT_BUCKETS + ENTROPY_BUCKETS


class Instruments:
    """The prometheus_client instruments of a run, all labeled by ``run``, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = _RegistryWithoutCreationTimes()
        gauge, counter = self._gauge, self._counter
        self.round = gauge("round", "Round the run is in, or the last one it finished.")
        self.phase = gauge("phase", "1 for the phase the run is in, 0 for the others.", "phase")
        self.labeled = gauge("labeled_images", "Images in the labeled set, adversarial twins not counted.")
        self.pool = gauge("pool_images", "Images in the unlabeled pool.")
        self.rejected = gauge("rejected_images", "Images of the source set aside as unreadable.")
        self.budget = gauge("label_budget_images", "Labels the run may ask for in all; +Inf without a limit.")
        self.accuracy = gauge(
            "accuracy_ratio", "Accuracy on the held-out set under an attack; clean: none.", "attack"
        )
        self.evaluated = gauge(
            "evaluated_labeled_images", "Size of the labeled set that the accuracies' model was trained on."
        )
        self.class_accuracy = gauge(
            "class_accuracy_ratio",
            "Accuracy on one class of the held-out set; other: mean of the classes beyond the first 1,000.",
            "attack",
            "class",
        )
        self.train_accuracy = gauge("train_accuracy_ratio", "Accuracy on the labeled set after training.")
        self.validation_accuracy = gauge(
            "validation_accuracy_ratio",
            "Accuracy on the labels held out of the training, at its last look.",
            "attack",
        )
        self.info = gauge("run_info", "1; which Ray session drives the run.", "session")
        self.progress_time = gauge(
            "last_progress_timestamp_seconds", "When the run last got anywhere, in Unix time."
        )
        self.awaited_since = gauge(
            "labels_awaited_since_timestamp_seconds",
            "Since when people are asked for labels, in Unix time; 0 while they are not.",
        )
        self.budget_left = gauge(
            "label_budget_left_images", "Labels the run may still ask for; +Inf without a limit."
        )
        self.rejected_limit = gauge("rejected_limit_ratio", "Share of the source that may be unreadable.")
        self.disk_free = gauge("run_directory_free_bytes", "Free space where a local run directory lies.")
        self.disk_size = gauge("run_directory_size_bytes", "Size of the disk of a local run directory.")
        self.recall_target = gauge("neighbor_recall_target_ratio", "Recall the neighbour search aims at.")
        self.recall = gauge(
            "neighbor_recall_ratio", "Share of the true nearest neighbours found, on the audit's queries."
        )
        self.recall_low = gauge(
            "neighbor_recall_low_ratio", "Lower end of the 95 % confidence interval of the recall."
        )
        self.loss = gauge("loss", "Training loss of the last round that trained.", "kind")
        # Both a last value and a total: the total gives shares of time over any window, but increase() only
        # estimates between scrapes; the last value is exactly what one round cost.
        self.stage_last = gauge(
            "stage_last_seconds", "Seconds a stage took the last time it finished.", "stage"
        )
        self.stage_rate = gauge(
            "stage_images_per_second",
            "Images a second of a stage: so far in the one in progress, else the last time it finished.",
            "stage",
        )
        self.node_rate = gauge(
            "node_images_per_second",
            "The same by node; other: all nodes beyond the first 256.",
            "stage",
            "node",
        )
        self.node_images = counter(
            "node_images_total", "Images a stage worked on, by node, where its work has one.", "stage", "node"
        )
        self.stage_seconds = counter("stage_seconds_total", "Seconds spent in a stage.", "stage")
        self.stage_images = counter("stage_images_total", "Images a stage worked on.", "stage")
        self.queries = counter("queries_total", "Images labeled in committed rounds, by true class.", "class")
        self.collapses = counter(
            "training_collapses_total", "Collapses of adversarial trainings in committed rounds.", "kind"
        )
        self.collapsed = gauge(
            "training_collapsed", "1 while the last look at a training found it collapsed, else 0.", "kind"
        )
        self.committed = counter("rounds_committed_total", "Rounds committed to the run directory.")
        self.round_scores = gauge(
            "round_query_scores_images",
            "Images queried in the last committed round with a score of at most `le`.",
            "le",
        )
        self.scores = Histogram(
            "dm2at_query_score",
            "Acquisition scores of the images queried in committed rounds.",
            ("run",),
            registry=self.registry,
            buckets=SCORE_BUCKETS,
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"dm2at_{name}", text, ("run", *labels), registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"dm2at_{name}", text, ("run", *labels), registry=self.registry)


class _RegistryWithoutCreationTimes(CollectorRegistry):
    """Leaves out the ``_created`` series, which double the counters and say only when a process started.

    prometheus_client itself can only turn them off for the whole process.
    """

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

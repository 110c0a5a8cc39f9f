"""Recording and alert rules, written once for Prometheus's own file and for Kubernetes' PrometheusRule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ACTIVE = "starting|selecting|training"
STALLED_SECONDS = 1800
OVERDUE_SECONDS = 3 * 86400
LEAST_FREE = 0.1


@dataclass(frozen=True)
class Recording:
    """A series that is kept of an expression.

    The names of ours say of what labels they are left: `run:...` has the run alone, so a driver that came
    back on another node goes on with the same series.
    """

    record: str
    expr: str

    def to_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """Something to look at, with what to do about it.

    Attributes:
        name: In Prometheus.
        expr: Has series while it is the case, one for each run (or node).
        pending: How long it must be the case.
        severity: `critical` if nothing goes on without a person.
        summary: What is the case, one line.
        runbook: What to do, one line.
    """

    name: str
    expr: str
    pending: str
    severity: Literal["critical", "warning"]
    summary: str
    runbook: str
    labels: dict[str, str] = field(default_factory=dict)

    def to_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.pending,
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {"summary": self.summary, "runbook": self.runbook},
        }


RECORDINGS = (
    # A minute back, so that a last word that was scraped once is recorded, whenever that was.
    Recording("run_phase:dm2at_phase:last", "max by (run, phase) (last_over_time(dm2at_phase[1m]))"),
    Recording(
        "run:dm2at_last_progress_timestamp_seconds:max",
        "max by (run) (dm2at_last_progress_timestamp_seconds)",
    ),
    Recording(
        "run:dm2at_labels_awaited_since_timestamp_seconds:last",
        "max by (run) (last_over_time(dm2at_labels_awaited_since_timestamp_seconds[1m]))",
    ),
    Recording(
        "run:dm2at_rejected:ratio",
        "max by (run) (dm2at_rejected_images) / (max by (run) (dm2at_rejected_images) "
        "+ max by (run) (dm2at_labeled_images) + max by (run) (dm2at_pool_images) > 0)",
    ),
)

ALERTS = (
    Alert(
        "Dm2atDriverGone",
        f'(max by (run) (last_over_time(run_phase:dm2at_phase:last{{phase=~"{ACTIVE}"}}[1h])) == 1)\n'
        f'unless on (run) (max by (run) (last_over_time(run_phase:dm2at_phase:last{{phase!~"{ACTIVE}"}}[1h]))'
        " == 1)\n"
        "unless on (run) max by (run) (run_phase:dm2at_phase:last)",
        "2m",
        "critical",
        "The driver of {{ $labels.run }} is gone, and the run was not over.",
        "`dm2at status RUN_DIR` tells what it left; submit the run again, it goes on from its directory. "
        "If it was ended on purpose, this ends by itself within an hour.",
    ),
    Alert(
        "Dm2atRoundStalled",
        f"(time() - run:dm2at_last_progress_timestamp_seconds:max > {STALLED_SECONDS})\n"
        f'and on (run) (max by (run) (run_phase:dm2at_phase:last{{phase=~"{ACTIVE}"}}) == 1)',
        "5m",
        "critical",
        "{{ $labels.run }} has not got anywhere for {{ $value | humanizeDuration }}.",
        "Look at *Throughput* for tasks that wait for resources and at the driver's log; "
        "a run that hangs may be ended and submitted again, finished stages are kept.",
    ),
    Alert(
        "Dm2atCollapse",
        'max by (run) (dm2at_training_collapsed{kind="overfitting"}) == 1\n'
        'or (max by (run) (dm2at_accuracy_ratio{attack="pgd"})\n'
        '  < 0.1 * max by (run) (dm2at_accuracy_ratio{attack="fgsm"} > 0.2))',
        "0m",
        "warning",
        "Training of {{ $labels.run }} has collapsed: it withstands FGSM alone (catastrophic overfitting).",
        "Look at *Stability watch*; training.on_collapse: restore_best keeps the best weights, and "
        "training.attack: n_fgsm or pgd, or training.grad_align, keep it from happening again.",
    ),
    Alert(
        "Dm2atInversion",
        'max by (run) (dm2at_training_collapsed{kind="inversion"}) == 1\n'
        'or (max by (run) (dm2at_accuracy_ratio{attack=~"fgsm|pgd"})\n'
        '  > on (run) max by (run) (dm2at_accuracy_ratio{attack="clean"}) + 0.02)',
        "0m",
        "warning",
        "{{ $labels.run }} answers attacked images better than clean ones: it has learned the perturbation.",
        "Labels leak into the adversaries: set training.attack_label: predicted, or raise "
        "training.clean_weight.",
    ),
    Alert(
        "Dm2atRecallUnderTarget",
        "max by (run) (dm2at_neighbor_recall_ratio) "
        "< on (run) max by (run) (dm2at_neighbor_recall_target_ratio)",
        "0m",
        "warning",
        "The neighbour search of {{ $labels.run }} found {{ $value | humanizePercentage }} of the true ones.",
        "neighbors.engine: auto widens the search by itself, exact finds all; "
        "neighbors.audit_queries narrows the interval.",
    ),
    Alert(
        "Dm2atRejectsOverLimit",
        "run:dm2at_rejected:ratio > on (run) max by (run) (dm2at_rejected_limit_ratio)",
        "0m",
        "critical",
        "{{ $value | humanizePercentage }} of the images of {{ $labels.run }} cannot be read: the run ends.",
        "The run's last line names the first of them and why; mend them, "
        "or raise data.max_rejected_fraction to go on without them.",
    ),
    Alert(
        "Dm2atLabelsOverdue",
        f"time() - (last_over_time(run:dm2at_labels_awaited_since_timestamp_seconds:last[15d]) != 0) "
        f"> {OVERDUE_SECONDS}",
        "0m",
        "warning",
        "{{ $labels.run }} has waited for labels for {{ $value | humanizeDuration }}.",
        "Remind who labels; once the labels are imported, submit the run again.",
    ),
    Alert(
        "Dm2atRunDiskFilling",
        f"max by (run) (dm2at_run_directory_free_bytes) / max by (run) (dm2at_run_directory_size_bytes) "
        f"< {LEAST_FREE}",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the disk with the run directory of {{ $labels.run }} is free.",
        "Make room there, or move the run directory while no driver works on it: "
        "the run goes on from wherever it lies.",
    ),
    Alert(
        "Dm2atNodeDiskFilling",
        "(max by (instance) (ray_node_disk_free) / (max by (instance) (ray_node_disk_free) "
        f"+ max by (instance) (ray_node_disk_usage)) < {LEAST_FREE})\n"
        "or (max by (instance) (ray_node_disk_free) / (max by (instance) (ray_node_disk_free) "
        "+ max by (instance) (ray_node_disk_usage)) < 0.3\n"
        "  and on (instance) max by (instance) (predict_linear(ray_node_disk_free[1h], 4 * 3600)) < 0)",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of the disk of {{ $labels.instance }} is free.",
        "Objects that did not fit are spilled there: give the object store more memory "
        "or the rounds smaller compute.block_rows; Ray stops placing objects at 95 %.",
    ),
)

INTERVAL = "10s"


def rule_groups() -> list[dict[str, Any]]:
    """The groups of a rules file; recordings first, as alerts read them."""
    return [
        {"name": "dm2at-recordings", "interval": INTERVAL, "rules": [r.to_rule() for r in RECORDINGS]},
        {"name": "dm2at-alerts", "interval": INTERVAL, "rules": [a.to_rule() for a in ALERTS]},
    ]

"""The dashboard *Rounds*: what a run has learned, what it has cost, and whether it is sound."""

from __future__ import annotations

from dm2at_ray.monitoring.dashboards.panels import RUN, Dashboard, Panel, Query, Row

RATIO = (0.0, 1.0)
UNDER_PGD = 'attack="pgd"'
AWAITING = 'phase="awaiting_labels"'


def _of(name: str, by: str = "", where: str = "") -> str:
    """A gauge or a total of the run; a driver that came back elsewhere is not counted twice."""
    selector = f'{name}{{run="$run"{", " + where if where else ""}}}'
    return f"max by ({by}) ({selector})" if by else f"max({selector})"


NOW = Row(
    "Now",
    (
        Panel(
            "Round",
            "Round the run is in, or the last one that it finished.",
            (Query(_of("dm2at_round"), "round"),),
            "stat",
            "none",
            width=3,
            height=4,
        ),
        Panel(
            "Labels",
            "Images in the labeled set.",
            (Query(_of("dm2at_labeled_images"), "labeled"),),
            "stat",
            width=3,
            height=4,
        ),
        Panel(
            "Budget left",
            "Labels that the run may still ask for; infinite without stop.label_budget.",
            (Query(_of("dm2at_label_budget_left_images"), "left"),),
            "stat",
            width=3,
            height=4,
        ),
        Panel(
            "Unlabeled",
            "Images in the pool that have no label.",
            (Query(_of("dm2at_pool_images"), "pool"),),
            "stat",
            width=3,
            height=4,
        ),
        Panel(
            "Since progress",
            "Time since the run last got anywhere; an alert comes after half an hour.",
            (Query(f"time() - {_of('dm2at_last_progress_timestamp_seconds')}", "since progress"),),
            "stat",
            "s",
            width=3,
            height=4,
        ),
        Panel(
            "Phase",
            "The phase that the run is in.",
            (Query(f"{_of('dm2at_phase', 'phase')} == 1", "{{phase}}"),),
            "state-timeline",
            "none",
            width=9,
            height=4,
        ),
    ),
)

ACCURACY = Row(
    "Accuracy",
    (
        Panel(
            "Accuracy over time",
            "On the held-out images, clean and attacked; PGD is the robust one, FGSM alone is no evidence.",
            (Query(_of("dm2at_accuracy_ratio", "attack"), "{{attack}}"),),
            unit="percentunit",
            limits=RATIO,
        ),
        Panel(
            "Accuracy against labels",
            "The same, against the size of the labeled set that the model was trained on.",
            (
                Query(_of("dm2at_evaluated_labeled_images"), "labels"),
                Query(_of("dm2at_accuracy_ratio", where='attack="clean"'), "clean"),
                Query(_of("dm2at_accuracy_ratio", where='attack="fgsm"'), "fgsm"),
                Query(_of("dm2at_accuracy_ratio", where='attack="pgd"'), "pgd"),
            ),
            "xychart",
            "percentunit",
            limits=RATIO,
        ),
        Panel(
            "Weakest classes under PGD",
            "The ten classes with the lowest robust accuracy.",
            (
                Query(
                    f"bottomk(10, {_of('dm2at_class_accuracy_ratio', 'class', UNDER_PGD)})",
                    "{{class}}",
                ),
            ),
            "bargauge",
            "percentunit",
            limits=RATIO,
        ),
        Panel(
            "Train accuracy",
            "On the labeled set after training: strategies compare only where it is near 1.",
            (Query(_of("dm2at_train_accuracy_ratio"), "train"),),
            unit="percentunit",
            limits=RATIO,
        ),
        Panel(
            "Loss",
            "Mean training losses, live while it trains.",
            (Query(_of("dm2at_loss", "kind"), "{{kind}}"),),
            limits=(0.0, None),
        ),
        Panel(
            "Stage seconds",
            "What each stage took the last time it finished.",
            (Query(_of("dm2at_stage_last_seconds", "stage"), "{{stage}}"),),
            unit="s",
            limits=(0.0, None),
            stacked=True,
        ),
    ),
)

QUERIES = Row(
    "Queries",
    (
        Panel(
            "Queries by class",
            "Images labeled in committed rounds, by true class: the thirty most asked for.",
            (Query(f"topk(30, {_of('dm2at_queries_total', 'class')})", "{{class}}"),),
            "bargauge",
            limits=(0.0, None),
        ),
        Panel(
            "Scores over rounds",
            "At every moment the histogram of the scores of the last committed round's queries.",
            (Query(_of("dm2at_round_query_scores_images", "le"), "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "Seconds in all",
            "Wall time of the committed and finished stages since the run began.",
            (Query(_of("dm2at_stage_seconds_total", "stage"), "{{stage}}"),),
            "bargauge",
            "s",
            limits=(0.0, None),
        ),
    ),
)

HEALTH = Row(
    "Health",
    (
        Panel(
            "Recall audit",
            "Share of the true neighbours that was found, the lower end of its 95 % interval, the target.",
            (
                Query(_of("dm2at_neighbor_recall_ratio"), "recall"),
                Query(_of("dm2at_neighbor_recall_low_ratio"), "lower end"),
                Query(_of("dm2at_neighbor_recall_target_ratio"), "target"),
            ),
            unit="percentunit",
        ),
        Panel(
            "Rejected images",
            "Share of the source that cannot be read, and the limit that ends the run.",
            (
                Query(
                    f"{_of('dm2at_rejected_images')} / "
                    f"({_of('dm2at_rejected_images')} + {_of('dm2at_labeled_images')} + "
                    f"{_of('dm2at_pool_images')})",
                    "rejected",
                ),
                Query(_of("dm2at_rejected_limit_ratio"), "limit"),
            ),
            unit="percentunit",
            limits=(0.0, None),
        ),
        Panel(
            "Stability watch",
            "Accuracy on the labels held out of the training: a PGD line that falls alone is a collapse.",
            (Query(_of("dm2at_validation_accuracy_ratio", "attack"), "{{attack}}"),),
            unit="percentunit",
            limits=RATIO,
        ),
        Panel(
            "Collapses",
            "Collapses that trainings of committed rounds answered, and whether the last look found one.",
            (
                Query(_of("dm2at_training_collapses_total", "kind"), "{{kind}} in all"),
                Query(_of("dm2at_training_collapsed", "kind"), "{{kind}} now"),
            ),
            limits=(0.0, None),
        ),
        Panel(
            "Labels awaited",
            "Time since people were asked for labels, while they are.",
            (
                Query(
                    f"(time() - {_of('dm2at_labels_awaited_since_timestamp_seconds')}) "
                    f"* on () {_of('dm2at_phase', where=AWAITING)}",
                    "awaited",
                ),
            ),
            unit="s",
            limits=(0.0, None),
        ),
        Panel(
            "Space of the run directory",
            "Free, as a share of the disk where a local run directory lies.",
            (
                Query(
                    f"{_of('dm2at_run_directory_free_bytes')} / {_of('dm2at_run_directory_size_bytes')}",
                    "free",
                ),
            ),
            unit="percentunit",
            limits=RATIO,
        ),
    ),
)

ROUNDS = Dashboard(
    uid="dm2at-rounds",
    title="dm2at / Rounds",
    about="What a run has learned, what it has cost, and whether it is sound.",
    variables=(RUN,),
    rows=(NOW, ACCURACY, QUERIES, HEALTH),
)

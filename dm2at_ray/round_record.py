"""What is reported of a round: its metrics.json, and the notices for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dm2at_ray.config import Config
from dm2at_ray.journal import costs_by_kind
from dm2at_ray.stages.neighbors import search_summary
from dm2at_ray.standing import Standing
from dm2at_ray.store import RoundDirectory, RunDirectory


def round_metrics(
    round_: RoundDirectory, standing: Standing, measured: dict[str, Any], num_classes: int
) -> dict[str, Any]:
    """Everything reported for a round, as metrics.json.

    Args:
        round_: Trained and evaluated.
        standing: After its labels.
        measured: What `evaluate` found.
        num_classes: Of the run.
    """
    training = round_.training()
    labels, scores = round_.labels(), round_.queries()["score"].to_pylist()
    counts = np.bincount(labels["label"].drop_null().to_numpy(), minlength=num_classes)
    return {
        "round": round_.index,
        "labeled": standing.labeled,
        "pool": standing.unlabeled,
        "rejected": standing.pool.rejected,
        "duplicates": standing.pool.duplicates,
        "skipped": standing.skipped,
        "corrected": len(round_.corrections()),
        "queried": len(labels),
        "queries_by_class": counts.tolist(),
        # Round 0 draws at random: its numbers are no scores.
        "query_scores": scores if round_.index > 0 else [],
        "accuracy": measured["accuracy"],
        "accuracy_by_class": measured["accuracy_by_class"],
        "accuracy_interval": measured["accuracy_interval"],
        "accuracy_interval_by_class": measured["accuracy_interval_by_class"],
        "evaluated": measured["images"],
        "train_accuracy": training["clean_accuracy"],
        "loss": training["loss"],
        "training": training,
        "neighbors": search_summary(round_),
        **costs_by_kind(round_.stage_costs()),
        "time": time.time(),
    }


def recall_notices(round_index: int, config: Config, search: dict[str, Any]) -> Iterator[str]:
    """Where a neighbour search found less than was asked for."""
    wanted = config.neighbors.recall_target
    if search.get("recall", 1.0) < wanted:
        yield (
            f"round {round_index}: the {search['engine']} neighbour search found {search['recall']:.2%} "
            f"of the true neighbours, less than neighbors.recall_target={wanted}; "
            "neighbors.engine=auto widens the search by itself, exact finds all"
        )


def label_notices(
    round_index: int, known: int, class_names: Sequence[str], corrections: int
) -> Iterator[str]:
    """What came with a round's labels: new classes, and other labels of earlier rounds.

    Args:
        round_index: Of the round.
        known: How many of the classes the run had before.
        class_names: All of them.
        corrections: Labels of earlier rounds that came or changed.
    """
    for number, name in enumerate(class_names[known:], known):
        yield f"round {round_index}: class {name} is new, number {number}"
    if corrections:
        yield f"round {round_index}: {corrections:,} labels of earlier rounds came or changed since"


def held_out_notices(run: RunDirectory, round_index: int, config: Config, held_out: int) -> Iterator[str]:
    """Once: that labels are not trained on, or that an early stop has none to go by.

    Args:
        run: The run directory.
        round_index: Of the round that was trained.
        config: Of the run.
        held_out: Labels that it was not trained on.
    """
    before = run.round(round_index - 1).training() if round_index > 0 else {}
    was_held_out = before.get("stability", {}).get("held_out")
    if held_out > 0 and not was_held_out:
        yield (
            f"round {round_index}: from now on about a tenth of the labels (now {held_out:,}, at most "
            f"training.validation={config.training.validation}) are held out to watch the training"
        )
    elif held_out == 0 and was_held_out is None and config.training.early_stop is not None:
        yield f"round {round_index}: training.early_stop has no effect yet, too few labels to hold any out"

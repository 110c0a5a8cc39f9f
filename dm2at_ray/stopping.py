"""When a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dm2at_ray.config_sections import StopConfig


def stop_reason(stop: StopConfig, rounds: Sequence[dict[str, Any]], unlabeled: int) -> str | None:
    """Say why the run is over, or None while it is not.

    Args:
        stop: The stop rules.
        rounds: `metrics.json` of the committed rounds, in order.
        unlabeled: Images left in U.
    """
    if not rounds:
        return None
    if stop.rounds is not None and len(rounds) > stop.rounds:
        return f"all {stop.rounds} query rounds are done"
    if stop.label_budget is not None and rounds[-1]["labeled"] >= stop.label_budget:
        return f"the budget of {stop.label_budget:,} labels is spent"
    if unlabeled == 0:
        return "the pool is empty"
    if stop.patience is not None and _rounds_without_gain(stop, rounds) >= stop.patience:
        return f"no gain in {stop.metric} accuracy for {stop.patience} rounds"
    return None


def _rounds_without_gain(stop: StopConfig, rounds: Sequence[dict[str, Any]]) -> int:
    """Rounds since the accuracy last rose, and by `min_gain` at least, above the best before it."""
    best = float("-inf")
    since = 0
    for metrics in rounds:
        accuracy = metrics["accuracy"][stop.metric]
        gained = accuracy > best and accuracy >= best + stop.min_gain
        since = 0 if gained else since + 1
        best = max(best, accuracy) if not gained else accuracy
    return since

"""The words a run reports under, and the order in which people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PHASES = ("starting", "selecting", "awaiting_labels", "training", "done", "failed", "interrupted")
STAGES = ("embed", "neighbors", "score", "craft", "export", "label", "train", "evaluate")
NODE_STAGES = ("embed", "score", "craft", "evaluate")
"""Stages whose images are counted by the node that worked on them."""
ATTACKS = ("clean", "fgsm", "pgd")
COLLAPSES = ("overfitting", "inversion")
ATTACK_NAMES = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack"}

RoundMetrics = Mapping[str, Any]
"""The ``metrics.json`` of one round."""


def attacks_of(rounds: Sequence[RoundMetrics]) -> list[str]:
    """Attacks to report: clean, FGSM and PGD always and first, then any other measured."""
    measured = {attack for metrics in rounds for attack in metrics.get("accuracy", {})}
    return [*ATTACKS, *sorted(measured.difference(ATTACKS))]


def stages_of(rounds: Sequence[RoundMetrics]) -> list[str]:
    """Stages that any round went through: those of `STAGES` in their order, then any other as it came."""
    timed = {stage: None for metrics in rounds for stage in metrics.get("stage_seconds", {})}
    return [*(s for s in STAGES if s in timed), *(s for s in timed if s not in STAGES)]


def attack_name(attack: str) -> str:
    """An attack as people write it: "FGSM" for "fgsm"."""
    return ATTACK_NAMES.get(attack, attack)


def round_seconds(metrics: RoundMetrics) -> float:
    """Seconds of all stages of a round."""
    return float(sum(metrics.get("stage_seconds", {}).values()))

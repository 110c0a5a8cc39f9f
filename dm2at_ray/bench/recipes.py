"""The trainings that `dm2at bench robustness` compares, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dm2at_ray.errors import ConfigError

REFERENCE = "pgd10"
"""The recipe that all others are held against."""


@dataclass(frozen=True)
class Recipe:
    """What sets one training apart from the others.

    Attributes:
        explanation: in one line.
        changes: fields of TrainSettings and their values; an empty recipe is what a run takes by itself.
    """

    explanation: str
    changes: dict[str, Any]


def _fresh(explanation: str, attack: str, **changes: Any) -> Recipe:
    """A recipe that says all about its adversaries, so that it stays the same when defaults move."""
    usual = {"adversaries": "fresh", "attack_label": "true", "attack_mode": "eval", "passes": "joint"}
    return Recipe(explanation, {**usual, "attack": attack, **changes})


RECIPES: dict[str, Recipe] = {
    "clean": Recipe("clean images only", {"clean_weight": 1.0}),
    "fgsm_paper": _fresh("plain FGSM, both halves in two passes: the paper's", "fgsm", passes="two"),
    "fgsm_predicted": _fresh(
        "the paper's, away from the predicted label", "fgsm", passes="two", attack_label="predicted"
    ),
    "fgsm_joint": _fresh("plain FGSM, both halves in one pass", "fgsm"),
    "fgsm_shared": _fresh(
        "plain FGSM in train mode, one gradient for weights and attack: the textbook's loop, but faster",
        "fgsm",
        passes="shared",
        attack_mode="train",
    ),
    "rs_fgsm": _fresh("FGSM of 1.25 epsilon from a random start, in one pass", "rs_fgsm"),
    "n_fgsm": _fresh("N-FGSM: noise of 2 epsilon, nothing clipped, in one pass", "n_fgsm"),
    "fgsm_grad_align": _fresh("plain FGSM in one pass with GradAlign of weight 0.2", "fgsm", grad_align=0.2),
    "rs_fgsm_two": _fresh("rs_fgsm, both halves in two passes", "rs_fgsm", passes="two"),
    "rs_fgsm_train_mode": _fresh("rs_fgsm, attacked in train mode", "rs_fgsm", attack_mode="train"),
    REFERENCE: _fresh("PGD of 10 steps in one pass: the reference", "pgd", attack_steps=10),
    "default": Recipe("what a run takes where nothing is chosen", {}),
}
"""Name -> recipe."""

COMPARED = tuple(name for name in RECIPES if name != "default")
"""What is compared where nobody chooses."""

ANSWERS = {"warn": "warn", "restore": "restore_best", "switch": "switch_attack"}
"""Ending of a recipe's name -> how that training answers a collapse; without one as a run does."""


def recipe_named(name: str) -> Recipe:
    """Find a recipe; `_warn`, `_restore` or `_switch` behind its name chooses the answer to a collapse.

    Raises:
        ConfigError: no recipe has this name.

    Examples:
        >>> recipe_named("clean").changes
        {'clean_weight': 1.0}
        >>> recipe_named("fgsm_joint_warn").changes["on_collapse"]
        'warn'
    """
    if name in RECIPES:
        return RECIPES[name]
    stem, _, ending = name.rpartition("_")
    if stem not in RECIPES or ending not in ANSWERS:
        raise ConfigError(
            f"recipe={name!r} is unknown; use one of: {', '.join(RECIPES)}, "
            f"or one of them with {', '.join(f'_{each}' for each in ANSWERS)} behind it"
        )
    recipe, answer = RECIPES[stem], ANSWERS[ending]
    return Recipe(f"{recipe.explanation}; on_collapse: {answer}", {**recipe.changes, "on_collapse": answer})

"""Whether an adversarial training is still sound: pure functions of what its looks have measured.

*Catastrophic overfitting* (Wong et al., arXiv 2001.03994): the model withstands the one step that it is
trained against, and nothing else. *Inversion*: it does better on attacked images than on clean ones, so it
reads the label from the perturbation (label leaking; Kurakin et al., arXiv 1611.01236).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dm2at_ray.errors import UserError
from dm2at_ray.training.settings import Attack, OnCollapse, TrainSettings

FALL = 0.2
"""Loss of PGD accuracy, FGSM accuracy not going down with it, that counts as catastrophic overfitting."""

GONE = 0.1
"""PGD accuracy below this share of FGSM accuracy is none to speak of."""

STANDARD_ERRORS = 2.0
"""A difference of two accuracies counts when it is more than so many of its standard errors."""

Collapse = Literal["overfitting", "inversion"]
COLLAPSES: tuple[Collapse, ...] = ("overfitting", "inversion")


@dataclass(frozen=True)
class Look:
    """What one look at a training has measured on the held-out part, and what followed from it."""

    epoch: int
    """Epochs done."""

    step: int
    """Optimizer steps done."""

    images: int
    """Images that the accuracies are of."""

    clean: float
    fgsm: float
    pgd: float

    collapse: Collapse | None = None

    answer: OnCollapse | None = None
    """What was done about the collapse; None where it had been answered at an earlier look already."""

    attack: Attack | None = None
    """The attack that the training goes on with, where the answer was to switch it."""


def noise(a: float, b: float, images: int) -> float:
    """The difference of two accuracies on `images` images each that chance alone explains.

    Two standard errors, as if the images were not the same: they are, so the bound is on the safe side.

    Examples:
        >>> noise(0.5, 0.5, 200)
        0.1
    """
    return STANDARD_ERRORS * math.sqrt((a * (1 - a) + b * (1 - b)) / images)


def collapse_of(before: Sequence[Look], look: Look) -> Collapse | None:
    """Judge the newest look by the ones before it.

    Overfitting is a fall of PGD accuracy by more than `FALL`, and than noise, from the best look, FGSM
    accuracy being no lower than then; or, where no look has come before it, PGD accuracy that is `GONE` with
    FGSM accuracy higher by as much. It lasts until PGD accuracy is back. Inversion is an FGSM or PGD accuracy
    above the clean one by more than noise.
    """
    lasts = bool(before) and before[-1].collapse == "overfitting" and before[-1].answer != "switch_attack"
    best = best_look(before)
    fell = best is not None and _is_far_above(best.pgd, look.pgd, look.images)
    if fell and best is not None and (lasts or look.fgsm >= best.fgsm):
        return "overfitting"
    gone = look.pgd < GONE * look.fgsm
    if gone and (lasts or _is_far_above(look.fgsm, look.pgd, look.images)):
        return "overfitting"
    attacked = max(look.fgsm, look.pgd)
    return "inversion" if attacked - look.clean > noise(attacked, look.clean, look.images) else None


def _is_far_above(a: float, b: float, images: int) -> bool:
    return a - b > max(FALL, noise(a, b, images))


def judged(before: Sequence[Look], look: Look, settings: TrainSettings) -> Look:
    """The look with its collapse, and with the answer to it that `settings.on_collapse` asks for.

    A collapse is answered once, when it is first seen; a switch of the attack undoes it, so that seen again
    it is a new one. A training on clean images only cannot collapse.
    """
    if not is_adversarial(settings):
        return look
    collapse = collapse_of(before, look)
    switches = settings.on_collapse == "switch_attack"
    is_new = collapse is not None and (switches or not before or before[-1].collapse != collapse)
    return replace(
        look,
        collapse=collapse,
        answer=settings.on_collapse if is_new else None,
        attack=switched(settings).attack if is_new and switches else None,
    )


def is_adversarial(settings: TrainSettings) -> bool:
    """Whether adversaries that differ from their originals are trained on."""
    return settings.clean_weight < 1 and settings.epsilon > 0


def best_look(looks: Sequence[Look], by: Literal["clean", "pgd"] = "pgd") -> Look | None:
    """The sound look with the highest accuracy, the earliest of equals; None where none is sound."""
    sound = [look for look in looks if look.collapse is None]
    return max(sound, key=lambda look: float(getattr(look, by)), default=None)


def is_worth_restoring(looks: Sequence[Look]) -> bool:
    """Whether the best look's weights are to be preferred to the last's, after a collapse.

    Not where the training has recovered, nor where its PGD accuracy never was above noise: what would be lost
    then is clean accuracy.
    """
    best = best_look(looks)
    if best is None or all(look.collapse is None for look in looks):
        return False
    last = looks[-1]
    return last.collapse == "inversion" or best.pgd - last.pgd > noise(best.pgd, last.pgd, last.images)


def went_back(looks: Sequence[Look]) -> bool:
    """Whether the training went back to the best weights after the last of these looks."""
    return looks[-1].answer == "switch_attack" and is_worth_restoring(looks)


def looks_without_gain(looks: Sequence[Look], by: Literal["clean", "pgd"] = "pgd") -> int:
    """Looks since the best one, or since the attack was switched."""
    best = best_look(looks, by)
    starts = [index + 1 for index, look in enumerate(looks) if look is best or look.attack is not None]
    return len(looks) - max(starts, default=0)


def switched(settings: TrainSettings) -> TrainSettings:
    """The same training with the next more reliable attack: N-FGSM, and after it PGD.

    Stored twins give way to fresh adversaries.

    Examples:
        >>> switched(TrainSettings(attack="rs_fgsm")).attack
        'n_fgsm'
        >>> switched(TrainSettings(attack="n_fgsm")).attack
        'pgd'
    """
    # Sharing the clean half's gradient suits an attack of one step from the image itself only.
    passes = "two" if settings.passes == "shared" else settings.passes
    if settings.adversaries == "stored":
        return replace(settings, adversaries="fresh", attack="n_fgsm", passes=passes)
    attack: Attack = "pgd" if settings.attack in ("n_fgsm", "pgd") else "n_fgsm"
    return replace(settings, attack=attack, passes=passes)


class CollapseError(UserError):
    """An adversarial training collapsed under `on_collapse: fail`; raised on all workers."""

    def __init__(self, round_index: int, look: Look) -> None:
        super().__init__(round_index, look)
        self.round_index = round_index
        self.look = look

    def __str__(self) -> str:
        return (
            f"training collapsed in round {self.round_index}, epoch {self.look.epoch}: "
            f"{describe(self.look)}; train with attack: n_fgsm or pgd, with a smaller epsilon, "
            "or with on_collapse: switch_attack"
        )


def describe(look: Look) -> str:
    """The collapse of a look and its three accuracies, in words."""
    words = {
        "overfitting": "catastrophic overfitting (FGSM accuracy stands, PGD accuracy does not)",
        "inversion": "adversarial accuracy above the clean one",
        None: "no collapse",
    }
    return (
        f"{words[look.collapse]} on {look.images} held-out images: "
        f"clean {look.clean:.1%}, FGSM {look.fgsm:.1%}, PGD {look.pgd:.1%}"
    )


def answer_in_words(looks: Sequence[Look]) -> str | None:
    """What the newest look has found and what is done about it; None where it gave no cause."""
    look = looks[-1]
    if look.answer is None:
        return None
    best = best_look(looks)
    epoch = best.epoch if best is not None and is_worth_restoring(looks) else None
    result = "" if epoch is None else f", but unless it recovers, the weights of epoch {epoch} are its result"
    deeds = {
        "warn": "training goes on",
        "restore_best": f"training goes on{result}",
        "switch_attack": f"training goes on from epoch {epoch or look.epoch} with attack: {look.attack}",
        "fail": "training stops",
    }
    return f"epoch {look.epoch}: {describe(look)}; {deeds[look.answer]}"

"""Looks at a training now and then, keeps its best weights, and answers a collapse."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from dm2at_ray.training.ema import WeightAverage
from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.report import Outcome
from dm2at_ray.training.settings import TrainSettings
from dm2at_ray.training.stability import (
    CollapseError,
    Look,
    best_look,
    is_adversarial,
    is_worth_restoring,
    judged,
    looks_without_gain,
    switched,
    went_back,
)
from dm2at_ray.training.state import TrainState
from dm2at_ray.training.validation import epochs_between_looks, hold_out, measure

Measure = Callable[[nn.Module], tuple[float, float, float]]
"""Clean, FGSM and PGD accuracy of a model, the same on all workers."""


class Lookout:
    """The looks at one training and what follows from them; decides alike on all workers.

    All that it knows is in its looks and the best weights: a resumed training makes it anew from these.

    Args:
        settings: As the training began.
        round_index: Round of the run.
        images: Held-out images; 0 for none, and then nobody looks.
        every: Epochs between two looks.
        measure: How a model is measured.
        looks: Those of the training that goes on.
        best: The weights that the best of them saw.
    """

    def __init__(
        self,
        settings: TrainSettings,
        round_index: int,
        *,
        images: int,
        every: int,
        measure: Measure,
        looks: tuple[Look, ...] = (),
        best: dict[str, Tensor] | None = None,
    ) -> None:
        self._base = settings
        self._round_index = round_index
        self.images = images
        self.every = every
        self._measure = measure
        self.looks = looks
        self.best = best
        self._by: Literal["clean", "pgd"] = "pgd" if is_adversarial(settings) else "clean"

    @property
    def settings(self) -> TrainSettings:
        """The settings as they are now: the attack may have been switched."""
        switches = [look for look in self.looks if look.attack is not None]
        return reduce(lambda settings, _: switched(settings), switches, self._base)

    @property
    def stops(self) -> bool:
        """Whether the training has gone too many looks without a better one."""
        patience = self._base.early_stop
        return patience is not None and looks_without_gain(self.looks, self._by) >= patience

    @property
    def outcome(self) -> Outcome:
        """Whose weights are the result, should the training end here."""
        restores = self._base.on_collapse == "restore_best" and is_worth_restoring(self.looks)
        if (self.stops or restores) and self.best is not None:
            return "best"
        return "average" if self._base.ema > 0 else "last"

    def result(self, average: WeightAverage | None) -> dict[str, Tensor] | None:
        """The weights of the outcome; None where they are the last step's."""
        if self.outcome == "best":
            return self.best
        return average.model.state_dict() if average is not None else None

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Whether to look after so many epochs of so many; always after the last."""
        return self.images > 0 and (epoch % self.every == 0 or epoch == epochs)

    def look(
        self,
        model: nn.Module,
        average: WeightAverage | None,
        optimizer: torch.optim.Optimizer,
        *,
        epoch: int,
        step: int,
    ) -> None:
        """Measure what would be used, judge it, and act on it.

        Switching the attack goes back to the best weights where they are worth it; the optimizer's momentum,
        which led away from them, and the average of weights begin anew then.

        Raises:
            CollapseError: The training collapsed under `on_collapse: fail`.
        """
        used = model if average is None else average.model
        clean, fgsm, pgd = self._measure(used)
        settings = self.settings
        look = judged(self.looks, Look(epoch, step, self.images, clean, fgsm, pgd), settings)
        if look.answer == "fail":
            raise CollapseError(self._round_index, look)
        self.looks = (*self.looks, look)
        if best_look(self.looks, self._by) is look:
            self.best = {name: tensor.detach().clone() for name, tensor in used.state_dict().items()}
        if went_back(self.looks):
            assert self.best is not None
            model.load_state_dict(self.best)
            optimizer.state.clear()
            if average is not None:
                average.load(model.state_dict(), 0)


def post_lookout(
    settings: TrainSettings,
    labeled: LabeledSet,
    start: TrainState | None,
    *,
    seed: int,
    round_index: int,
    rank: int,
    world_size: int,
    device: torch.device,
) -> tuple[LabeledSet, Lookout]:
    """Hold part of the labeled set out and have it looked at.

    Args:
        settings: How to train.
        labeled: The whole labeled set.
        start: Where the training goes on; None where it begins.
        seed: Seed of the run.
        round_index: Round of the run.
        rank: Of this worker.
        world_size: Workers.
        device: Of this worker.

    Returns:
        What is left to train on, and the lookout.
    """
    place = {"seed": seed, "round_index": round_index, "rank": rank, "world_size": world_size}
    looks = start.report.stability.looks if start is not None else ()
    best = start.best if start is not None else None
    trained_on, held_out = hold_out(labeled, settings, seed)

    def measured(model: nn.Module) -> tuple[float, float, float]:
        assert held_out is not None, "nobody looks where nothing is held out"
        return measure(model, held_out, settings.epsilon, **place, device=device)

    images = len(held_out) if held_out is not None else 0
    every = epochs_between_looks(settings, len(trained_on), images) if images else 0
    lookout = Lookout(
        settings, round_index, images=images, every=every, measure=measured, looks=looks, best=best
    )
    return trained_on, lookout

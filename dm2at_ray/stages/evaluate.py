"""Accuracy on the held-out images, with confidence intervals and per class: clean and under attack.

FGSM accuracy alone is no evidence of robustness (catastrophic overfitting), so PGD always stands beside it in
a round. AutoAttack takes hundreds of times longer; `dm2at evaluate` runs it on a round of one's choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dm2at_ray.algorithm.attacks import fgsm, pgd, random_start
from dm2at_ray.algorithm.autoattack import autoattack
from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.config import Config
from dm2at_ray.stages.batches import IdRange
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.fan_out import map_pieces, results
from dm2at_ray.stages.held_out import HeldOut, Perturb
from dm2at_ray.stages.tally import Tally

ROUND_ATTACKS = ("clean", "fgsm", "pgd")
"""What every round is measured under."""

ATTACKS = (*ROUND_ATTACKS, "autoattack")

BATCHES_PER_PIECE = 4


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured.

    Attributes:
        epsilon: Radius of all attacks, pixels in [0, 1].
        pgd_steps: Steps of PGD.
        pgd_step_size: Its step size.
        pgd_restarts: Its random starts.
        images: Held-out ids to evaluate on: those below this one.
        attacks: Some of `ATTACKS`.
    """

    epsilon: float
    pgd_steps: int
    pgd_step_size: float
    pgd_restarts: int
    images: int
    attacks: tuple[str, ...] = ROUND_ATTACKS

    @classmethod
    def of(cls, config: Config, held_out: int) -> EvaluationPlan:
        """What the config of a run asks for.

        Args:
            config: Of the run.
            held_out: Held-out ids that there are.
        """
        wanted, epsilon = config.evaluation, config.attack.epsilon
        step_size = wanted.pgd_step_size
        return cls(
            epsilon=epsilon,
            pgd_steps=wanted.pgd_steps,
            pgd_step_size=2.5 * epsilon / wanted.pgd_steps if step_size is None else step_size,
            pgd_restarts=wanted.pgd_restarts,
            images=min(held_out, wanted.max_images or held_out),
        )


def evaluate(context: StageContext, plan: EvaluationPlan, progress: Progress) -> dict[str, Any]:
    """Measure the model that this round trained.

    Args:
        context: The round.
        plan: What to measure.
        progress: Told of every piece.

    Returns:
        `Tally.accuracies` of the attacks of the plan.
    """
    # AutoAttack has work enough for an actor in one batch; PGD's restarts fill their batches from several.
    rows = (1 if "autoattack" in plan.attacks else BATCHES_PER_PIECE) * context.batch_size
    begins = range(0, plan.images, rows)
    pieces = pa.table({"begin": begins, "end": [min(b + rows, plan.images) for b in begins]})
    dataset = map_pieces(pieces, Evaluator, context, plan, on_actors=False, name="evaluate")
    tally = Tally.empty(context.model.num_classes, plan.attacks)
    for part, node in results(dataset):
        tally += Tally.from_table(part)
        progress(int(tally.images.sum()), plan.images, node)
    return tally.accuracies()


class Evaluator:
    """Counts right answers of one range of held-out ids."""

    def __init__(self, context: StageContext, plan: EvaluationPlan) -> None:
        context.begin_piece()
        self._context = context
        self._plan = plan

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a range of ids to a row for each class: images, and right answers under each attack."""
        context = self._context
        piece = IdRange(int(batch["begin"][0]), int(batch["end"][0]))
        pool = context.pool("test")
        ids = np.setdiff1d(np.arange(piece.begin, piece.end), pool.rejected_ids(), assume_unique=True)
        labels = pool.labels(ids)
        held_out = HeldOut(ids, pool.read(ids), labels, context.batch_size, context.device)
        right = {attack: self._right(attack, held_out) for attack in self._plan.attacks}
        return Tally.of(labels, right, context.model.num_classes).to_table()

    def _right(self, attack: str, held_out: HeldOut) -> np.ndarray:
        """Which images (n,) bool are answered rightly under an attack, after every restart of it."""
        attempts: dict[str, Iterator[Perturb]] = {
            "clean": iter([lambda _ids, x, _y: x]),
            "fgsm": iter([self._fgsm]),
            "pgd": (partial(self._pgd, restart) for restart in range(self._plan.pgd_restarts)),
            "autoattack": iter([self._autoattack]),
        }
        return held_out.right_after_all(self._context.trained_model(), attempts[attack])

    def _fgsm(self, _: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        return fgsm(self._context.trained_model(), x, y, self._plan.epsilon)

    def _pgd(self, restart: int, ids: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        context, plan, pixels = self._context, self._plan, x[0].numel()
        draws = uniform(context.seed, context.round_index, Stream.ATTACK, ids, pixels, first=restart * pixels)
        start = random_start(x, plan.epsilon, torch.from_numpy(draws))
        return pgd(
            context.trained_model(),
            x,
            y,
            plan.epsilon,
            steps=plan.pgd_steps,
            step_size=plan.pgd_step_size,
            start=start,
        )

    def _autoattack(self, ids: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        context = self._context
        # The padding repeats the last id, and here every copy would be attacked at its full price.
        there = len(np.unique(ids))
        x_adv = x.clone()
        x_adv[:there] = autoattack(
            context.trained_model(),
            x[:there],
            y[:there],
            self._plan.epsilon,
            num_classes=context.model.num_classes,
            seed=context.seed,
        )
        return x_adv

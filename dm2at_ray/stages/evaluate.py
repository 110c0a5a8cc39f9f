"""Accuracy on the held-out images: clean, FGSM and PGD from a random start, per class too.

FGSM accuracy alone is no evidence of robustness (catastrophic overfitting), so PGD always stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dm2at_ray.algorithm.attacks import fgsm, pgd, random_start
from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.stages.batches import IdRange, aligned_batches, pad_rows
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.fan_out import map_pieces, results
from dm2at_ray.stages.images import to_device

ATTACKS = ("clean", "fgsm", "pgd")
BATCHES_PER_PIECE = 4


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured.

    Attributes:
        epsilon: Radius of both attacks, pixels in [0, 1].
        pgd_steps: Steps of PGD.
        pgd_step_size: Its step size.
        images: Held-out ids to evaluate on: those below this one.
    """

    epsilon: float
    pgd_steps: int
    pgd_step_size: float
    images: int


def evaluate(context: StageContext, plan: EvaluationPlan, progress: Progress) -> dict[str, Any]:
    """Measure the model that this round trained.

    Args:
        context: The round.
        plan: What to measure.
        progress: Told of every piece.

    Returns:
        `images`; `accuracy`: attack -> share of the held-out images answered rightly; `accuracy_by_class`:
        attack -> the same for each class (None for a class without images).
    """
    rows = BATCHES_PER_PIECE * context.batch_size
    begins = range(0, plan.images, rows)
    pieces = pa.table({"begin": begins, "end": [min(b + rows, plan.images) for b in begins]})
    dataset = map_pieces(pieces, Evaluator, context, plan, on_actors=False, name="evaluate")
    classes = context.model.num_classes
    counts = np.zeros(classes, np.int64)
    correct = {attack: np.zeros(classes, np.int64) for attack in ATTACKS}
    for part in results(dataset):
        counts += part["images"].to_numpy()
        for attack in ATTACKS:
            correct[attack] += part[attack].to_numpy()
        progress(int(counts.sum()), plan.images)
    return {
        "images": int(counts.sum()),
        "accuracy": {attack: float(correct[attack].sum() / counts.sum()) for attack in ATTACKS},
        "accuracy_by_class": {
            attack: [float(c / n) if n else None for c, n in zip(correct[attack], counts, strict=True)]
            for attack in ATTACKS
        },
    }


class Evaluator:
    """Counts right answers of one range of held-out ids."""

    def __init__(self, context: StageContext, plan: EvaluationPlan) -> None:
        context.use_threads()
        self._context = context
        self._plan = plan

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Take a range of ids to a row for each class: images, and right answers under each attack."""
        context, size = self._context, self._context.batch_size
        piece = IdRange(int(batch["begin"][0]), int(batch["end"][0]))
        pool = context.pool("test")
        ids = np.setdiff1d(np.arange(piece.begin, piece.end), pool.rejected_ids(), assume_unique=True)
        counts = np.zeros((1 + len(ATTACKS), context.model.num_classes), np.int64)
        for rows in aligned_batches(ids, size):
            labels = pool.labels(ids[rows])
            right = self._right(pad_rows(ids[rows], size), pool.read(ids[rows]), pad_rows(labels, size))
            for row, hits in enumerate([np.ones(len(labels), bool), *right[:, : len(labels)]]):
                counts[row] += np.bincount(labels[hits], minlength=counts.shape[1])
        return pa.table(dict(zip(("images", *ATTACKS), counts, strict=True)))

    def _right(self, ids: np.ndarray, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Right answers (attacks, N) bool of one padded batch."""
        context, plan = self._context, self._plan
        model = context.trained_model()
        x = to_device(pad_rows(images, len(ids)), context.device)
        y = torch.from_numpy(labels).to(context.device)
        draws = uniform(context.seed, context.round_index, Stream.ATTACK, ids, x[0].numel())
        start = random_start(x, plan.epsilon, torch.from_numpy(draws))
        attacked = {
            "clean": x,
            "fgsm": fgsm(model, x, y, plan.epsilon),
            "pgd": pgd(
                model, x, y, plan.epsilon, steps=plan.pgd_steps, step_size=plan.pgd_step_size, start=start
            ),
        }
        with torch.inference_mode():
            return np.stack([(model(attacked[a]).argmax(dim=1) == y).cpu().numpy() for a in ATTACKS])

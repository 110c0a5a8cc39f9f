"""What a training tells about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dm2at_ray.training.settings import Attack
from dm2at_ray.training.stability import Look, best_look

SUMS = (
    "clean_loss",
    "clean_correct",
    "clean_images",
    "adversarial_loss",
    "adversarial_correct",
    "adversarial_images",
    "total_loss",
    "samples",
)
"""What is summed over steps and workers, in this order."""

Outcome = Literal["last", "average", "best"]
"""Whose weights are a training's result: the last step's, their moving average, or the best look's."""


@dataclass(frozen=True)
class LossMeans:
    """Mean cross-entropy per image, and the mean combined loss per sample."""

    clean: float | None
    """None where no clean image was trained on."""

    adversarial: float | None
    """None where no adversary was trained on."""

    total: float


@dataclass(frozen=True)
class Stability:
    """What watching a training has come to."""

    held_out: int
    """Labels that were not trained on; 0 where nothing was watched."""

    epochs_between_looks: int
    looks: tuple[Look, ...]
    """In order; the last is of the weights after the last epoch, before any answer to them."""

    attack: Attack
    """The attack that training ended with."""

    stopped_early: bool
    outcome: Outcome
    """Whose weights are the result."""

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the sound look with the best PGD accuracy."""
        best = best_look(self.looks)
        return best.epoch if best else None


@dataclass(frozen=True)
class EpochReport:
    """The training up to and including an epoch; losses and accuracies are of that epoch, in train mode."""

    epoch: int
    """Epochs done."""

    epochs: int
    """Epochs to do."""

    steps: int
    """Optimizer steps done."""

    images_seen: int
    """Clean and adversarial images trained on, over all workers and epochs done."""

    seconds: float
    """Wall-clock seconds of the epochs done."""

    clean_accuracy: float | None
    adversarial_accuracy: float | None
    loss: LossMeans

    checkpoint_due: bool
    """Whether this epoch is one to make a checkpoint of."""

    stability: Stability

    @property
    def is_last(self) -> bool:
        """Whether the training is over."""
        return self.epoch == self.epochs or self.stability.stopped_early

    def to_json(self) -> dict[str, object]:
        """A dictionary of plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> EpochReport:
        """The report that `to_json` was made of."""
        stability = values["stability"]
        looks = tuple(Look(**look) for look in stability["looks"])
        return EpochReport(
            **{
                **values,
                "loss": LossMeans(**values["loss"]),
                "stability": Stability(**{**stability, "looks": looks}),
            }
        )


@dataclass(frozen=True)
class TrainResult:
    """How a training ended; losses and accuracies are of the last epoch, in train mode."""

    epochs: int
    steps: int
    images_seen: int
    seconds: float
    images_per_second: float
    clean_accuracy: float | None
    adversarial_accuracy: float | None
    loss: LossMeans
    stability: Stability

    @staticmethod
    def of(report: EpochReport) -> TrainResult:
        """The result of a training whose last epoch reported this."""
        return TrainResult(
            epochs=report.epoch,
            steps=report.steps,
            images_seen=report.images_seen,
            seconds=report.seconds,
            images_per_second=report.images_seen / report.seconds if report.seconds > 0 else 0.0,
            clean_accuracy=report.clean_accuracy,
            adversarial_accuracy=report.adversarial_accuracy,
            loss=report.loss,
            stability=report.stability,
        )


def loss_means(sums: NDArray[np.float64]) -> LossMeans:
    """Mean losses from (8,) sums as `SUMS` names them.

    Examples:
        >>> loss_means(np.array([3.0, 1, 2, 0, 0, 0, 5, 2]))
        LossMeans(clean=1.5, adversarial=None, total=2.5)
    """
    total = _mean(sums[6], sums[7])
    assert total is not None, "a global batch holds at least one sample"
    return LossMeans(clean=_mean(sums[0], sums[2]), adversarial=_mean(sums[3], sums[5]), total=total)


def accuracies(sums: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Clean and adversarial accuracy from (8,) sums; None where there was no such image."""
    return _mean(sums[1], sums[2]), _mean(sums[4], sums[5])


def image_count(sums: NDArray[np.float64]) -> int:
    """Clean and adversarial images from (8,) sums."""
    return round(float(sums[2] + sums[5]))


def _mean(total: np.float64, count: np.float64) -> float | None:
    return float(total / count) if count > 0 else None

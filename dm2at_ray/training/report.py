"""What a training tells about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class LossMeans:
    """Mean cross-entropy per image, and the mean combined loss per sample."""

    clean: float | None
    """None where no clean image was trained on."""

    adversarial: float | None
    """None where no adversary was trained on."""

    total: float


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

    def to_json(self) -> dict[str, object]:
        """A dictionary of plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, object]) -> EpochReport:
        """The report that `to_json` was made of."""
        loss = values["loss"]
        assert isinstance(loss, dict)
        return EpochReport(**{**values, "loss": LossMeans(**loss)})  # type: ignore[arg-type]


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

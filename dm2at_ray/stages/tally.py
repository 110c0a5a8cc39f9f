"""Right answers counted by class, and what they say about the accuracy: shares with their intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tally:
    """Counts of an evaluation.

    Attributes:
        images: Images of each class, int64 (classes,).
        right: Attack -> those of them answered rightly, int64 (classes,).
    """

    images: np.ndarray
    right: dict[str, np.ndarray]

    @classmethod
    def of(cls, labels: np.ndarray, right: dict[str, np.ndarray], num_classes: int) -> Tally:
        """Count images with labels int64 (n,), answered rightly or not: attack -> bool (n,)."""
        counts = {attack: np.bincount(labels[hits], minlength=num_classes) for attack, hits in right.items()}
        return cls(np.bincount(labels, minlength=num_classes), counts)

    @classmethod
    def empty(cls, num_classes: int, attacks: Iterable[str]) -> Tally:
        """Nothing counted yet."""
        return cls.of(np.zeros(0, np.int64), {attack: np.zeros(0, bool) for attack in attacks}, num_classes)

    @classmethod
    def from_table(cls, table: pa.Table) -> Tally:
        """What `to_table` was made of."""
        images, *right = (column.to_numpy() for column in table.columns)
        return cls(images, dict(zip(table.column_names[1:], right, strict=True)))

    def to_table(self) -> pa.Table:
        """A row for each class: its images, and the right answers under each attack."""
        return pa.table({"images": self.images, **self.right})

    def __add__(self, other: Tally) -> Tally:
        right = {attack: hits + other.right[attack] for attack, hits in self.right.items()}
        return Tally(self.images + other.images, right)

    def accuracies(self) -> dict[str, Any]:
        """What is reported.

        Returns:
            `images` and `images_by_class`; attack -> share of the images answered rightly as `accuracy`, the
            same for each class as `accuracy_by_class`, and the 95 % confidence intervals of both as
            `accuracy_interval` and `accuracy_interval_by_class` (None for a class without images).
        """
        total = int(self.images.sum())
        all_right = {attack: int(hits.sum()) for attack, hits in self.right.items()}
        by_class = {
            attack: list(zip(hits.tolist(), self.images.tolist(), strict=True))
            for attack, hits in self.right.items()
        }
        return {
            "images": total,
            "images_by_class": self.images.tolist(),
            "accuracy": {attack: _share(k, total) for attack, k in all_right.items()},
            "accuracy_interval": {attack: wilson_interval(k, total) for attack, k in all_right.items()},
            "accuracy_by_class": {a: [_share(k, n) for k, n in counts] for a, counts in by_class.items()},
            "accuracy_interval_by_class": {
                a: [wilson_interval(k, n) for k, n in counts] for a, counts in by_class.items()
            },
        }


def wilson_interval(right: int, images: int) -> list[float] | None:
    """Wilson's 95 % confidence interval of an accuracy; None where nothing was measured.

    It says how far another held-out set of this size may lead elsewhere, not what another training may give.

    Args:
        right: Right answers.
        images: Answers in all.

    Returns:
        Its lower and upper end.

    Examples:
        >>> [round(end, 3) for end in wilson_interval(95, 100)]
        [0.888, 0.978]
    """
    if images == 0:
        return None
    interval = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def _share(right: int, images: int) -> float | None:
    return right / images if images else None

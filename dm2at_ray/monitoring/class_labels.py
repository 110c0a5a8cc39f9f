"""The ``class`` label of metrics, bounded whatever the number of classes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

MAX_CLASSES = 1000
OTHER = "other"


def class_labels(class_names: Sequence[str]) -> list[str]:
    """The label value of every class: its name, or "other" beyond the first 1,000.

    A name that stands for two classes, or reads "other" itself, gets its index added, so that a series means
    one class.

    Examples:
        >>> class_labels(["cat", "dog", "cat"])
        ['cat (0)', 'dog', 'cat (2)']
    """
    occurrences = Counter(class_names[:MAX_CLASSES])
    own = [
        f"{name} ({index})" if occurrences[name] > 1 or name == OTHER else name
        for index, name in enumerate(class_names[:MAX_CLASSES])
    ]
    return own + [OTHER] * (len(class_names) - len(own))


def grouped_sums(labels: Sequence[str], values: Sequence[float]) -> list[tuple[str, float]]:
    """Sum of the per-class `values` under each label, in order of the labels."""
    sums: dict[str, float] = defaultdict(float)
    for label, value in zip(labels, values, strict=False):
        sums[label] += value
    return list(sums.items())


def grouped_means(labels: Sequence[str], values: Sequence[float | None]) -> list[tuple[str, float]]:
    """Mean of the per-class `values` under each label; a class without a value (None, NaN) is left out."""
    known: dict[str, list[float]] = defaultdict(list)
    for label, value in zip(labels, values, strict=False):
        if value is not None and not math.isnan(value):
            known[label].append(value)
    return [(label, math.fsum(group) / len(group)) for label, group in known.items()]

"""How unsure a model is about a sample: Step 4 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025).

A measure takes probabilities (..., C) to uncertainties (...), higher for a less certain prediction. An
aggregate makes one number of a sample's k mixtures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Measure = Callable[[Tensor], Tensor]


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy −Σ p ln p in nats: 0 to ln C.

    Args:
        probabilities: (..., C), each row sums to 1.

    Returns:
        (...) of the same dtype.
    """
    return torch.special.entr(probabilities).sum(dim=-1)


def least_confidence(probabilities: Tensor) -> Tensor:
    """One minus the highest probability: 0 to 1 − 1/C.

    Args:
        probabilities: (..., C), each row sums to 1.

    Returns:
        (...) of the same dtype.
    """
    return 1 - probabilities.amax(dim=-1)


def margin(probabilities: Tensor) -> Tensor:
    """One minus the gap between the two highest probabilities: 0 to 1.

    Args:
        probabilities: (..., C) with C >= 2, each row sums to 1.

    Returns:
        (...) of the same dtype.
    """
    top = probabilities.topk(2, dim=-1).values  # (..., 2)
    return 1 - (top[..., 0] - top[..., 1])


def _mean(probabilities: Tensor, measure: Measure) -> Tensor:
    return measure(probabilities).mean(dim=1)


def _max(probabilities: Tensor, measure: Measure) -> Tensor:
    return measure(probabilities).amax(dim=1)


def _mean_prediction(probabilities: Tensor, measure: Measure) -> Tensor:
    return measure(probabilities.mean(dim=1))


MEASURES: dict[str, Measure] = {"entropy": entropy, "least_confidence": least_confidence, "margin": margin}
AGGREGATES: dict[str, Callable[[Tensor, Measure], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "mean_prediction": _mean_prediction,
}


def uncertainty(logits: Tensor, measure: str, aggregate: str) -> Tensor:
    """Uncertainty of each sample over its k mixtures.

    Args:
        logits: (N, k, C) unnormalized log-probabilities, k >= 1.
        measure: a key of ``MEASURES``: ``entropy``, ``least_confidence`` or ``margin``.
        aggregate: a key of ``AGGREGATES``: ``mean`` or ``max`` of the mixtures' uncertainties, or
            ``mean_prediction``, the uncertainty of their mean probabilities.

    Returns:
        (N,) float32, higher for a less certain sample.

    Raises:
        ValueError: if there are no mixtures, or the measure or the aggregate is unknown.

    Examples:
        >>> logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[9.0, 0.0], [9.0, 0.0]]])
        >>> uncertainty(logits, "entropy", "mean")
        tensor([0.6931, 0.0012])
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}: choose one of {', '.join(MEASURES)}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"unknown aggregate {aggregate!r}: choose one of {', '.join(AGGREGATES)}")
    if logits.shape[1] == 0:
        raise ValueError("a sample without any mixture has no uncertainty")
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)  # (N, k, C)
    return AGGREGATES[aggregate](probabilities, MEASURES[measure])

"""The B highest scores are the queries: the end of Step 4 of Algorithm 2 (Entropy 27(11):1159, 2025)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Top(NamedTuple):
    """The best samples of a part of the pool, best first, ties by the smaller id.

    Attributes:
        sample_ids: (n,) int64.
        scores: (n,) float32.
    """

    sample_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def top_queries(
    scores: npt.NDArray[np.float32], sample_ids: npt.NDArray[np.int64], budget: int
) -> npt.NDArray[np.int64]:
    """Find the ``budget`` highest scores; the answer does not depend on the order of the rows.

    Args:
        scores: (N,) floating, higher for a sample more worth a label.
        sample_ids: (N,) int64, all different.
        budget: B >= 0; all N where there are fewer.

    Returns:
        (min(B, N),) int64 row indices, highest score first, ties by the smaller sample id.

    Raises:
        ValueError: if a score is NaN: the weights or the image behind it are.

    Examples:
        >>> top_queries(np.array([0.1, 0.9, 0.5, 0.9]), np.array([10, 31, 32, 30]), budget=2)
        array([3, 1])
    """
    broken = np.flatnonzero(np.isnan(scores))
    if len(broken):
        raise ValueError(f"{len(broken)} scores are NaN, the first that of sample {sample_ids[broken[0]]}")
    rows = np.arange(len(scores))
    if 0 < budget < len(scores):
        # Only rows that reach the B-th highest score are worth sorting.
        rows = np.flatnonzero(scores >= np.partition(scores, -budget)[-budget])
    best_first = np.lexsort((sample_ids[rows], -scores[rows]))
    return rows[best_first[:budget]]


def merge_tops(parts: Iterable[Top], budget: int) -> Top:
    """Merge the tops of disjoint parts of the pool: ``budget`` from each part are enough.

    Args:
        parts: at least one; no sample in two of them.
        budget: B >= 0.

    Returns:
        The same as ``top_queries`` over all parts at once.

    Raises:
        ValueError: if there are no parts, or a score is NaN.

    Examples:
        >>> parts = [Top(np.array([4, 1]), np.array([0.9, 0.2])), Top(np.array([3]), np.array([0.5]))]
        >>> merge_tops(parts, budget=2).sample_ids
        array([4, 3])
    """
    all_ids, all_scores = zip(*parts, strict=True)
    sample_ids, scores = np.concatenate(all_ids), np.concatenate(all_scores)
    best = top_queries(scores, sample_ids, budget)
    return Top(sample_ids[best], scores[best])

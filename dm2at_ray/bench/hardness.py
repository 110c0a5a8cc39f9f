"""How hard a pool is to search: near-duplicates make any engine look good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dm2at_ray.bench.truth import Truth, true_distances

LID_NEIGHBORS = 100
FAR_ROWS = 256


@dataclass(frozen=True)
class Hardness:
    """What is measured on the audit's queries; medians over the queries.

    Attributes:
        kth_to_median: D to the k-th nearest over the median D to any row. Plain crops of the same photographs
            have 0.2, features of real pools 0.2 to 0.5, independent random numbers 0.9.
        lid: local intrinsic dimension by maximum likelihood over the 100 nearest (Amsaleg et al., KDD 2015).
        zero_share: share of the features that are exactly zero.

    The first two are None where duplicates leave nothing to measure.
    """

    kth_to_median: float | None
    lid: float | None
    zero_share: float

    @classmethod
    def measure(cls, features: np.ndarray, truth: Truth, k: int, seed: int) -> Hardness:
        """Measure a pool.

        Args:
            features: (N, D) float32.
            truth: its queries' nearest.
            k: neighbours of the search.
            seed: of the rows that stand for any row.
        """
        rows = len(features)
        queries = truth.queries.numpy()
        some = np.random.default_rng([seed, rows, 1]).integers(rows, size=(len(queries), FAR_ROWS))
        some = np.where(some == queries[:, None], (some + 1) % rows, some)
        median = np.median(true_distances(features, queries, some).numpy(), axis=1)  # (Q,)
        nearest = truth.nearest.numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = nearest[:, k - 1] / median
            lid = -1 / np.log(nearest[:, :-1] / nearest[:, -1:]).mean(axis=1)
        return cls(_median(ratio), _median(lid), float((features[queries] == 0).mean()))


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None

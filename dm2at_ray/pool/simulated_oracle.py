"""The oracle of a closed loop: labels that are known but hidden."""

from __future__ import annotations

import numpy as np

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.errors import PoolError
from dm2at_ray.pool.images import UNKNOWN_LABEL, Pool

_IDS_NAMED = 5


class SimulatedOracle:
    """Answers with the labels of the pool's label column, or mistakes them as people do.

    Args:
        pool: The images and their labels.
        noise: Share of the samples that are mistaken for one of the other classes, all alike likely; the same
            sample always in the same way.
        num_classes: Classes in all.
        seed: Of the mistakes.
    """

    def __init__(self, pool: Pool, noise: float = 0.0, num_classes: int = 2, seed: int = 0) -> None:
        self._pool = pool
        self._noise = noise
        self._num_classes = num_classes
        self._seed = seed

    def label(self, sample_ids: np.ndarray) -> np.ndarray:
        """Class numbers (n,) int64 of the queries (n,) int64, in their order.

        Raises:
            PoolError: the pool has no label for some of them.
        """
        labels = self._pool.labels(sample_ids)
        missing = np.asarray(sample_ids)[labels == UNKNOWN_LABEL]
        if missing.size:
            named = ", ".join(map(str, missing[:_IDS_NAMED])) + (", ..." if missing.size > _IDS_NAMED else "")
            raise PoolError(
                f"oracle 'simulated': {missing.size} of {labels.size} queries have no label in the pool "
                f"(samples {named}); label them there, or choose another oracle"
            )
        return self._mistaken(np.asarray(sample_ids), labels) if self._noise else labels

    def _mistaken(self, sample_ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        draws = uniform(self._seed, 0, Stream.LABEL_NOISE, sample_ids.astype(np.int64), 2)
        steps = 1 + np.floor(draws[:, 1] * (self._num_classes - 1)).astype(np.int64)
        return np.where(draws[:, 0] < self._noise, (labels + steps) % self._num_classes, labels)

"""The oracle of a closed loop: labels that are known but hidden."""

from __future__ import annotations

import numpy as np

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.images import UNKNOWN_LABEL, Pool
from dm2at_ray.pool.oracles.base import Oracle

_IDS_NAMED = 5


class SimulatedOracle(Oracle):
    """Answers with the labels of the pool's label column."""

    name = "simulated"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

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
        return labels

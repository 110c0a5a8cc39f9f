"""Where the labeled set L and the unlabeled pool U of a run stand: what its rounds' labels say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from dm2at_ray.config import Config
from dm2at_ray.stages.manifest import SplitSummary
from dm2at_ray.store import RunDirectory


@dataclass(frozen=True)
class Standing:
    """L and U after some rounds.

    Attributes:
        pool: All images of the pool, in numbers.
        excluded: Sorted ids (n,) int64 that are not in U: set aside, or answered.
        labeled: Samples of L.
        skipped: Samples of which people cannot tell the label.
    """

    pool: SplitSummary
    excluded: np.ndarray
    labeled: int
    skipped: int

    @classmethod
    def after(cls, rounds: int, run: RunDirectory, pool: SplitSummary, set_aside: np.ndarray) -> Standing:
        """After the labels of the first so many rounds.

        Args:
            rounds: How many.
            run: Where they are.
            pool: The pool by now.
            set_aside: Ids (n,) int64 of the pool that are never asked for.
        """
        answered = run.labels(rounds)
        labeled = pc.sum(answered["label"].is_valid()).as_py() or 0
        excluded = np.unique(np.concatenate([set_aside, answered["sample_id"].to_numpy()]))
        return cls(pool, excluded, labeled, len(answered) - labeled)

    @property
    def unlabeled(self) -> int:
        """Samples of U."""
        return self.pool.size - len(self.excluded)

    def budget(self, config: Config, round_index: int) -> int:
        """B of a round: what is asked for, is left in the budget and is left in U."""
        wanted = config.query.size if round_index > 0 else config.query.initial
        left = self.unlabeled
        if config.stop.label_budget is not None:
            left = min(left, config.stop.label_budget - self.labeled)
        return min(wanted, left)

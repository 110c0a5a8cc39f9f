"""Random acquisition: the baseline every strategy has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.algorithm.acquisition.base import Candidates, Classifier
from dm2at_ray.algorithm.counter_rng import Stream, uniform


@dataclass(frozen=True)
class Random:
    """A uniform number for each sample id and round; needs neither model nor data."""

    name: str = "random"
    needs_features: bool = False
    needs_images: bool = False
    needs_neighbors: bool = False

    def score(self, model: Classifier | None, candidates: Candidates) -> Tensor:
        """Score N candidates, on the CPU; see ``Strategy.score``."""
        draws = uniform(
            candidates.seed, candidates.round_index, Stream.ACQUISITION, candidates.sample_ids, count=1
        )
        return torch.from_numpy(draws[:, 0].astype(np.float32))

"""Uncertainty sampling on the sample itself, without neighbours or MixUp."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.algorithm.acquisition.base import Candidates, Classifier
from dm2at_ray.algorithm.uncertainty import uncertainty


@dataclass(frozen=True)
class Uncertainty:
    """Entropy, least confidence or margin of f(x); computed from the features that are there already.

    Attributes:
        measure: a key of ``uncertainty.MEASURES``, which is also the strategy's name.
    """

    measure: str
    needs_features: bool = True
    needs_images: bool = False
    needs_neighbors: bool = False

    @property
    def name(self) -> str:
        """The measure's name."""
        return self.measure

    @torch.inference_mode()
    def score(self, model: Classifier | None, candidates: Candidates) -> Tensor:
        """Score N candidates; see ``Strategy.score``."""
        if model is None or candidates.features is None:
            raise ValueError(f"{self.name} needs a model and the candidates' features")
        logits = model.head(candidates.features.float())  # (N, C)
        return uncertainty(logits.unsqueeze(1), self.measure, "mean")

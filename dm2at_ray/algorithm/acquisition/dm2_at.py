"""The strategy of DM2-AT: Steps 3 and 4 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.algorithm.acquisition.base import Candidates, Classifier, Space
from dm2at_ray.algorithm.mixup import mixing_coefficients, mixup
from dm2at_ray.algorithm.uncertainty import uncertainty


@dataclass(frozen=True)
class DM2AT:
    """Uncertainty on the mixtures of a sample with its k nearest neighbours.

    In ``feature`` space h(x) is mixed with the neighbours' features and only the head is applied; in
    ``input`` space the images are mixed, as the paper has it, and the whole model is applied k times. Both
    take one neighbour rank at a time, so memory does not grow with k. A sample alone in its pool (k = 0) is
    scored as it is, unmixed.

    Attributes:
        measure: a key of ``uncertainty.MEASURES``.
        aggregate: a key of ``uncertainty.AGGREGATES``, over the k mixtures.
        alpha: α of Beta(α, α), > 0.
        space: ``feature`` or ``input``.
    """

    measure: str
    aggregate: str
    alpha: float
    space: Space
    name: str = "dm2_at"
    needs_neighbors: bool = True

    @property
    def needs_features(self) -> bool:
        """Only where features are mixed."""
        return self.space == "feature"

    @property
    def needs_images(self) -> bool:
        """Only where images are mixed."""
        return self.space == "input"

    @torch.inference_mode()
    def score(self, model: Classifier | None, candidates: Candidates) -> Tensor:
        """Score N candidates; see ``Strategy.score``."""
        if model is None:
            raise ValueError("dm2_at needs a model")
        x = candidates.features if self.space == "feature" else candidates.images
        if x is None:
            raise ValueError(f"dm2_at in {self.space} space needs the candidates' {self.space}s")
        # Features travel as float16; the head computes in float32.
        classify, x = (model.head, x.float()) if self.space == "feature" else (model, x)
        if candidates.k == 0:
            return uncertainty(classify(x).unsqueeze(1), self.measure, self.aggregate)

        mu = mixing_coefficients(
            candidates.seed, candidates.round_index, candidates.sample_ids, candidates.k, self.alpha
        ).to(x.device)  # (N, k)
        logits = []
        for rank in range(candidates.k):
            neighbors = self._neighbors(candidates, rank).unsqueeze(1)  # (N, 1, ...)
            mixtures = mixup(x, neighbors, mu[:, rank : rank + 1]).squeeze(1)  # (N, ...)
            logits.append(classify(mixtures))
        return uncertainty(torch.stack(logits, dim=1), self.measure, self.aggregate)

    def _neighbors(self, candidates: Candidates, rank: int) -> Tensor:
        """(N, ...) features or images of each candidate's neighbour of this rank."""
        if self.space == "feature" and candidates.neighbor_features is not None:
            return candidates.neighbor_features[:, rank]
        if self.space == "input" and candidates.neighbor_images is not None:
            return candidates.neighbor_images(rank)
        raise ValueError(f"dm2_at in {self.space} space needs the neighbours' {self.space}s")

"""What an acquisition strategy sees of the pool, and what it must offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

Space = Literal["input", "feature"]


class Classifier(Protocol):
    """The part of a model that strategies use: f = head ∘ features."""

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Features (N, D) to logits (N, C)."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, C)."""


@dataclass(frozen=True)
class Candidates:
    """A batch of the unlabeled pool, with as much about each sample as the strategy asks for.

    Attributes:
        seed: of the run.
        round_index: of the active-learning round.
        sample_ids: (N,) int64.
        features: (N, D) floating, h(x); for a strategy with ``needs_features``.
        images: (N, C, H, W) floating in [0, 1]; for a strategy with ``needs_images``.
        neighbor_features: (N, k, D), nearest first; for neighbours in feature space.
        neighbor_images: takes a rank in [0, k) to the (N, C, H, W) images of each sample's neighbour of that
            rank; for neighbours in input space. One rank at a time, because k of them may not fit.
        neighbor_count: k, where ``neighbor_features`` is not there to tell it.
    """

    seed: int
    round_index: int
    sample_ids: npt.NDArray[np.int64]
    features: Tensor | None = None
    images: Tensor | None = None
    neighbor_features: Tensor | None = None
    neighbor_images: Callable[[int], Tensor] | None = None
    neighbor_count: int | None = None

    @property
    def k(self) -> int:
        """Neighbours per sample; may be 0, in a pool of one."""
        if self.neighbor_features is not None:
            return self.neighbor_features.shape[1]
        if self.neighbor_count is None:
            raise ValueError("the candidates carry no neighbours: give neighbor_features or neighbor_count")
        return self.neighbor_count


@dataclass(frozen=True)
class StrategySettings:
    """What a user can set about strategies; each takes what concerns it.

    Attributes:
        measure: a key of ``uncertainty.MEASURES``.
        aggregate: a key of ``uncertainty.AGGREGATES``, over the mixtures.
        alpha: α of MixUp's Beta(α, α), > 0.
        space: where MixUp happens: on images (``input``) or on features (``feature``).
    """

    measure: str
    aggregate: str
    alpha: float
    space: Space


class Strategy(Protocol):
    """Scores candidates: the higher, the more worth a label.

    A score depends on its own sample (and its neighbours) only, never on the rest of the batch, up to the
    rounding of kernels. Models are used as they come: the caller puts them in eval mode.
    """

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def needs_features(self) -> bool:
        """Whether ``Candidates.features`` is read."""

    @property
    def needs_images(self) -> bool:
        """Whether ``Candidates.images`` is read, and with neighbours ``neighbor_images``."""

    @property
    def needs_neighbors(self) -> bool:
        """Whether the neighbour search (Step 2 of Algorithm 2) must have been run."""

    def score(self, model: Classifier | None, candidates: Candidates) -> Tensor:
        """Score a batch.

        Args:
            model: the current classifier; None will do for a strategy that needs no data but ids.
            candidates: N samples.

        Returns:
            (N,) float32 without a graph.

        Raises:
            ValueError: if the candidates lack what the strategy needs.
        """

"""Feature normalization before distances are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors.metric import SMALLEST_L2, TINY_SCALE

Normalize = Literal["none", "l2", "standardize"]
KINDS = ("none", "l2", "standardize")


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Takes raw features to those that D compares, each row by itself.

    Attributes:
        kind: `none`; `l2` divides each row by its Euclidean norm (zero rows stay zero); `standardize`
            takes each dimension to mean 0 and standard deviation 1 (constant dimensions to 0; a spread below
            1e-38, which float32 does not hold, is none).
        mean: (D,) float32, for `standardize`.
        scale: (D,) float32, for `standardize`.
    """

    kind: str
    mean: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def fit(cls, kind: str, sample: Tensor) -> Normalizer:
        """Take what the kind needs from a sample (S, D) of the pool's raw features.

        Raises:
            ConfigError: the kind is unknown.
        """
        if kind not in KINDS:
            raise ConfigError(f"normalize={kind!r} is unknown; use one of: {', '.join(KINDS)}")
        if kind != "standardize":
            return cls(kind)
        std, mean = torch.std_mean(sample.to(torch.float64), dim=0, correction=0)
        # A constant dimension is left a spread of rounding only, which must not be blown up; nor can a spread
        # be that float32 does not hold.
        constant = (std <= 1e-7 * mean.abs()) | (std < torch.finfo(torch.float32).tiny)
        return cls(kind, mean.to(torch.float32), torch.where(constant, 1.0, std).to(torch.float32))

    def __call__(self, features: Tensor) -> Tensor:
        """Return (N, D) float32 of (N, D) float32."""
        if self.kind == "l2":
            tiny = features.abs().amax(dim=1, keepdim=True) < SMALLEST_L2
            # Squares that vanish would make a norm too small; a power of two changes no direction.
            features = features * torch.where(tiny, TINY_SCALE, 1.0).to(torch.float32)
            return torch.nn.functional.normalize(features, dim=1, eps=torch.finfo(torch.float32).tiny)
        if self.mean is not None and self.scale is not None:
            return (features - self.mean.to(features.device)) / self.scale.to(features.device)
        return features

"""8-bit codes of features, with the proven bound that lets a filter on codes leave out pairs under D."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors import backend

# Shares of the features that a candidate for the code range must cover; the one with the least error wins.
COVERAGES = (0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)


@dataclass(frozen=True, eq=False)
class Quantizer:
    """u = round((x - low) / step), clipped to 0 .. 255 (a VA-file: Weber et al., VLDB 1998).

    With the residual e(x) = sum_j |x_j - low_j - step * u_j| / step of each row,
    |x - y|_1 >= step * (SAD(u, v) - e(x) - e(y)), where SAD is the sum of absolute differences of the codes.

    Attributes:
        low: (D,) float64, what code 0 stands for in each dimension.
        step: what one code is worth in every dimension, > 0.
    """

    low: Tensor
    step: float

    @classmethod
    def fit(cls, sample: Tensor) -> Quantizer:
        """Choose the range that leaves the smallest mean residual on a sample of the pool.

        Args:
            sample: (S, D) float32, S >= 1.
        """
        x = sample.to(torch.float64)
        low = x.amin(dim=0)
        above = (x - low).flatten().sort().values
        ranges = {float(above[min(len(above) - 1, int(share * len(above)))]) for share in COVERAGES}
        candidates = [cls(low, width / 255) for width in sorted(ranges) if width > 0]
        if not candidates:
            return cls(low, 1.0)
        errors = [float(each.encode(sample)[1].mean()) * each.step for each in candidates]
        return candidates[errors.index(min(errors))]

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (N, D) uint8 and the residuals (N,) float32, rounded up, of features (N, D).

        Every row's codes depend on that row only.
        """
        codes, residuals = backend.encode(features, self.low.to(features.device), self.step)
        # float64 to float32 may round down by 2^-24 of the value; the sum's own error is far smaller.
        return codes, (residuals * (1 + 2.0**-22)).to(torch.float32)

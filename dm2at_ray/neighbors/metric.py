"""D of single pairs, the same to the last bit wherever a pair is met."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.algorithm.distance import distance
from dm2at_ray.errors import ConfigError

# Pairs measured at once: small enough for a CPU core's cache, large enough to keep a GPU busy.
PAIRS_CPU = 1024
PAIRS_GPU = 16384

SMALLEST_L2 = 2.0**-50
"""Below it squares too small for float32, under 2^-126, may be a part of the sum that counts."""

TINY_SCALE = 2.0**100
"""With it squares of differences from the least float32 to SMALLEST_L2 are in its normal range."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-12, 1e12
"""With these D of all features that a `Block` takes stays in the range of float32."""


@dataclass(frozen=True)
class Metric:
    """D(x, y) = l1_weight * |x - y|_1 + l2_weight * |x - y|_2 (Step 2 of Algorithm 2).

    Raises:
        ConfigError: a weight is neither 0 nor from SMALLEST_WEIGHT to LARGEST_WEIGHT, or both are 0.
    """

    l1_weight: float = 1.0
    l2_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("l1_weight", "l2_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value} must be a number >= 0")
            if value and not SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT:
                raise ConfigError(
                    f"{name}={value} must be 0 or from {SMALLEST_WEIGHT:.0e} to {LARGEST_WEIGHT:.0e}: "
                    "distances are float32, and only the ratio of the weights tells who is near"
                )
        if self.l1_weight == self.l2_weight == 0:
            raise ConfigError("l1_weight and l2_weight are both 0; at least one must be positive")

    def least_per_l1(self, dims: int) -> float:
        """Return c with D >= c * |x - y|_1 in so many dimensions, because |v|_2 >= |v|_1 / sqrt(d)."""
        return self.l1_weight + self.l2_weight / math.sqrt(dims)

    def rounding(self, dims: int) -> float:
        """Return what D as a float32 may be too small by, as a factor: (d + 8) * 2^-23, and as much again."""
        return 1 + (dims + 8) * 2.0**-22

    def underflow(self, dims: int) -> float:
        """Return what D may lack where squares of differences below 1e-19 vanish in float32, as on a GPU."""
        return dims * 1e-18 * max(self.l1_weight, self.l2_weight)

    def may_lack_squares(self, distances: Tensor, dims: int) -> Tensor:
        """Return which D measured in float32 may be too small, because squares have vanished from L2."""
        # No D is larger where L2 is at most SMALLEST_L2.
        tiny = distances < SMALLEST_L2 * (self.l1_weight * math.sqrt(dims) + self.l2_weight)
        return tiny & (distances > 0) if self.l1_weight > 0 else tiny

    def of_pairs(self, x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
        """Return D(x[i[p]], y[j[p]]) for each of P pairs as (P,) float32.

        Every pair is measured in a batch of one fixed shape, the last one padded: the order in which a
        reduction adds may depend on its shape (on a GPU it does), and so may the last bit. Where squares
        might vanish in float32, they are taken of differences TINY_SCALE times as large, which loses nothing:
        a power of two changes no digit.
        """
        pairs = PAIRS_GPU if x.is_cuda else PAIRS_CPU
        count = i.shape[0]
        d = x.new_empty(-(-count // pairs) * pairs)
        i, j = (torch.nn.functional.pad(index, (0, d.shape[0] - count)) for index in (i, j))
        for start in range(0, count, pairs):
            at = slice(start, start + pairs)
            a, b = x.index_select(0, i[at]), y.index_select(0, j[at])
            d[at] = distance(a, b, self.l1_weight, self.l2_weight)
            tiny = self.may_lack_squares(d[at], x.shape[1])
            if bool(tiny.any()):
                scaled = distance((a - b) * TINY_SCALE, a.new_zeros(()), self.l1_weight, self.l2_weight)
                d[at] = torch.where(tiny, scaled / TINY_SCALE, d[at])
        return d[:count]

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


@dataclass(frozen=True)
class Metric:
    """D(x, y) = l1_weight * |x - y|_1 + l2_weight * |x - y|_2 (Step 2 of Algorithm 2).

    Raises:
        ConfigError: a weight is negative or not finite, or both are zero.
    """

    l1_weight: float = 1.0
    l2_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("l1_weight", "l2_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}={value} must be a number >= 0")
        if self.l1_weight == self.l2_weight == 0:
            raise ConfigError("l1_weight and l2_weight are both 0; at least one must be positive")

    def least_per_l1(self, dims: int) -> float:
        """Return c with D >= c * |x - y|_1 in so many dimensions, because |v|_2 >= |v|_1 / sqrt(d)."""
        return self.l1_weight + self.l2_weight / math.sqrt(dims)

    def rounding(self, dims: int) -> float:
        """Return what D as a float32 may be too small by, as a factor: (d + 8) * 2^-23, and as much again."""
        return 1 + (dims + 8) * 2.0**-22

    def underflow(self, dims: int) -> float:
        """Return what D may lack because squares of differences below 1e-19 vanish in float32."""
        return dims * 1e-18 * max(self.l1_weight, self.l2_weight)

    def of_pairs(self, x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
        """Return D(x[i[p]], y[j[p]]) for each of P pairs as (P,) float32.

        Every pair is measured in a batch of one fixed shape, the last one padded: the order in which a
        reduction adds may depend on its shape (on a GPU it does), and so may the last bit.
        """
        pairs = PAIRS_GPU if x.is_cuda else PAIRS_CPU
        count = i.shape[0]
        d = x.new_empty(-(-count // pairs) * pairs)
        i, j = (torch.nn.functional.pad(index, (0, d.shape[0] - count)) for index in (i, j))
        for start in range(0, count, pairs):
            at = slice(start, start + pairs)
            d[at] = distance(
                x.index_select(0, i[at]), y.index_select(0, j[at]), self.l1_weight, self.l2_weight
            )
        return d[:count]

"""Which pairs of two blocks are worth measuring under D: the certified filter, and the shortlist's."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.gpu import gemm, sad
from dm2at_ray.neighbors.gpu.survivors import Survivors
from dm2at_ray.neighbors.metric import Metric


class Filter(Protocol):
    """Finds the pairs of a tile that must be measured, and says which of them count.

    Attributes:
        tile: rows of x and rows of y of a tile.
    """

    tile: tuple[int, int]

    def launch(self, tiles: Tensor, survivors: Survivors) -> None:
        """Append the pairs of tiles (T, FIELDS) that must be measured."""

    def counts(self, distances: Tensor, rows: Tensor, *, of_x: bool) -> Tensor | None:
        """Return which of P measured pairs count for these rows, (P,) bool; None for all of them."""

    def tighten(self, worst_x: Tensor, worst_y: Tensor) -> None:
        """Take note of the k-th distances found so far, (N,) and (M,) float32."""


class Certified:
    """Leaves out a pair only where the bound on its codes proves D > min(limit, k-th distance) of both rows.

    SAD - e_i - e_j > max(T_i, T_j) proves it (`Quantizer`), T being that distance, with what rounding may
    have taken from D, over step (l1_weight + l2_weight / sqrt(D)). e and T are rounded up to whole codes:
    that keeps a pair or so more in a thousand, and the comparison is exact.
    """

    def __init__(self, x: Encoded, y: Encoded, metric: Metric, step: float) -> None:
        d = x.codes.shape[1]
        self._shape = sad.SadShape()
        self.tile = self._shape.rows, self._shape.columns
        self._limits = x.limit, y.limit
        self._per_code = step * metric.least_per_l1(d)
        self._rounding = metric.rounding(d)
        self._underflow = metric.underflow(d)
        # No SAD is larger: from there on all reaches and slacks are alike, and sums stay below 2^31.
        self._largest = 255 * d
        self._x = self._rows(x)
        self._y = self._x if x is y else self._rows(y)

    def launch(self, tiles: Tensor, survivors: Survivors) -> None:
        """Append the pairs of tiles (T, FIELDS) that the bound does not rule out."""
        sad.launch_sad(tiles, survivors, x=self._x, y=self._y, shape=self._shape)

    def counts(self, distances: Tensor, rows: Tensor, *, of_x: bool) -> Tensor | None:
        """Return which of P pairs are within these rows' limits: the others passed for the other row."""
        return distances <= self._limits[0 if of_x else 1].index_select(0, rows)

    def tighten(self, worst_x: Tensor, worst_y: Tensor) -> None:
        """Take note of the k-th distances found so far, (N,) and (M,) float32."""
        same = self._x is self._y
        self._x = replace(self._x, reach=self._reach(torch.minimum(worst_x, self._limits[0])))
        self._y = (
            self._x if same else replace(self._y, reach=self._reach(torch.minimum(worst_y, self._limits[1])))
        )

    def _rows(self, block: Encoded) -> sad.SadRows:
        slack = self._whole(block.residuals.to(torch.float64))
        return sad.SadRows(sad.to_words(block.codes, self._shape), self._reach(block.limit), slack)

    def _reach(self, threshold: Tensor) -> Tensor:
        """Return T (N,) int32: a pair whose SAD less residuals is larger is beyond the threshold."""
        return self._whole((threshold.to(torch.float64) * self._rounding + self._underflow) / self._per_code)

    def _whole(self, codes: Tensor) -> Tensor:
        """Round (N,) float64 up to int32; float64's own rounding is far below 2^-40."""
        return (codes * (1 + 2.0**-40)).ceil_().clamp_(0, self._largest).to(torch.int32)


class Shortlist:
    """Keeps exactly the pairs whose codes are within either row's radius in squared L2."""

    def __init__(self, x: Encoded, y: Encoded) -> None:
        assert x.radius is not None
        assert y.radius is not None
        self._shape = gemm.GemmShape()
        self.tile = self._shape.rows, self._shape.columns
        self._x = gemm.GemmRows.of(x.codes, x.radius, self._shape)
        self._y = self._x if x is y else gemm.GemmRows.of(y.codes, y.radius, self._shape)

    def launch(self, tiles: Tensor, survivors: Survivors) -> None:
        """Append the candidates of tiles (T, FIELDS)."""
        gemm.launch_gemm(tiles, survivors, x=self._x, y=self._y, shape=self._shape)

    def counts(self, distances: Tensor, rows: Tensor, *, of_x: bool) -> Tensor | None:
        """Let all count: a candidate is one for both its rows."""
        return None

    def tighten(self, worst_x: Tensor, worst_y: Tensor) -> None:
        """Do nothing: what is a candidate must not depend on what was found."""

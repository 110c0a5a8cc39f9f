"""Which pairs of two blocks are worth measuring under D: the certified filter, and the shortlist's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.gpu import gemm, halves, sad
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


class Certified(ABC):
    """Leaves out a pair only where a bound proves D > min(limit, k-th distance) of both rows.

    Sum - e_i - e_j > max(T_i, T_j) proves it, where a kernel's sum of absolute differences overstates the L1
    norm by at most the slacks e, and T is that distance, with what rounding may have taken from D, over what
    D is at least worth per unit of L1: l1_weight + l2_weight / sqrt(D).
    """

    _x: sad.SadRows | halves.HalfRows
    _y: sad.SadRows | halves.HalfRows

    def __init__(self, x: Encoded, y: Encoded, metric: Metric, unit: float) -> None:
        d = x.features.shape[1]
        self._limits = x.limit, y.limit
        self._per_unit = unit * metric.least_per_l1(d)
        self._rounding = metric.rounding(d)
        self._underflow = metric.underflow(d)

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

    def _reach(self, threshold: Tensor) -> Tensor:
        """Return T (N,): a pair whose sum less slacks is larger is beyond the threshold (N,) float32."""
        return self._upward((threshold.to(torch.float64) * self._rounding + self._underflow) / self._per_unit)

    @abstractmethod
    def _upward(self, units: Tensor) -> Tensor:
        """Round (N,) float64 up to what the kernel compares with."""


class CertifiedByCodes(Certified):
    """By 8-bit codes, whose slack is the residual (`Quantizer`).

    Slack and reach are rounded up to whole codes: that keeps a pair or so more in a thousand, and the
    comparison is exact.
    """

    _x: sad.SadRows
    _y: sad.SadRows

    def __init__(self, x: Encoded, y: Encoded, metric: Metric, step: float) -> None:
        super().__init__(x, y, metric, step)
        self._shape = sad.SadShape()
        self.tile = self._shape.rows, self._shape.columns
        # No SAD is larger: from there on all reaches and slacks are alike, and sums stay below 2^31.
        self._largest = 255 * x.codes.shape[1]
        self._x = self._rows(x)
        self._y = self._x if x is y else self._rows(y)

    def launch(self, tiles: Tensor, survivors: Survivors) -> None:
        """Append the pairs of tiles (T, FIELDS) that the bound does not rule out."""
        sad.launch_sad(tiles, survivors, x=self._x, y=self._y, shape=self._shape)

    def _rows(self, block: Encoded) -> sad.SadRows:
        slack = self._upward(block.residuals.to(torch.float64))
        return sad.SadRows(sad.to_words(block.codes, self._shape), self._reach(block.limit), slack)

    def _upward(self, units: Tensor) -> Tensor:
        """Round (N,) float64 up to int32; float64's own rounding is far below 2^-40."""
        return (units * (1 + 2.0**-40)).ceil_().clamp_(0, self._largest).to(torch.int32)


class CertifiedByHalves(Certified):
    """By features as float16, whose slack is their distance from the features."""

    _x: halves.HalfRows
    _y: halves.HalfRows

    def __init__(self, x: Encoded, y: Encoded, metric: Metric) -> None:
        d = x.features.shape[1]
        scale = halves.Scale.fit(x.features, y.features)
        super().__init__(x, y, metric, scale.unit)
        self.tile = halves.ROWS, halves.COLUMNS
        # The kernel's own rounding, and that of reach and slack to float32 and of their sum.
        self._overstated = halves.overstated(d) * (1 + 2.0**-20)
        self._x = self._rows(x, scale)
        self._y = self._x if x is y else self._rows(y, scale)

    def launch(self, tiles: Tensor, survivors: Survivors) -> None:
        """Append the pairs of tiles (T, FIELDS) that the bound does not rule out."""
        halves.launch_halves(tiles, survivors, x=self._x, y=self._y)

    def _rows(self, block: Encoded, scale: halves.Scale) -> halves.HalfRows:
        words, residuals = scale.words(block.features)
        return halves.HalfRows(words, self._reach(block.limit), self._upward(residuals))

    def _upward(self, units: Tensor) -> Tensor:
        """Return (N,) float64 as float32, by as much larger as the kernel's sums may be."""
        return (units * self._overstated).to(torch.float32)


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

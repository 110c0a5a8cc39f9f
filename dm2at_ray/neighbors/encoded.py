"""A block of the pool as the engines' filters see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """N rows: features to measure D with, 8-bit codes to filter by, and how far each row looks.

    Attributes:
        sample_ids: (N,) int64, distinct, in any order.
        features: (N, D) float32, normalized, finite, contiguous.
        codes: (N, D) uint8, contiguous (`Quantizer.encode`).
        residuals: (N,) float32, in code units: see `Quantizer`.
        order: (N,) int64, the rank of each row's sample id among the block's: ties under D go to the smaller.
        limit: (N,) float32: no pair farther than this under D is among the row's k nearest; +inf where
            nothing is known yet. Used by the certified filter.
        radius: (N,) int64: the squared L2 distance of codes up to which pairs are the row's candidates; None
            where the certified filter is used.
    """

    sample_ids: Tensor
    features: Tensor
    codes: Tensor
    residuals: Tensor
    order: Tensor
    limit: Tensor
    radius: Tensor | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

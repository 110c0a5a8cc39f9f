"""A run of the pool's rows, checked and cast: what one task of a neighbour search holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dm2at_ray.errors import PoolError
from dm2at_ray.neighbors.inputs import as_features, as_sample_ids
from dm2at_ray.neighbors.normalizer import Normalizer

TILE = 1024
"""Blocks are cut at multiples of it of the sample id: rows with the same id // TILE are always together."""

NAMED_IN_ERRORS = 5

LARGEST = 1e16
"""Squares of larger features, summed over some thousand dimensions, leave the range of float32."""


@dataclass(frozen=True, eq=False)
class Block:
    """N rows of the pool.

    Attributes:
        sample_ids: (N,) int64, distinct.
        features: (N, D) float32, finite, contiguous, on any device.
    """

    sample_ids: Tensor
    features: Tensor

    @classmethod
    def make(
        cls,
        sample_ids: ArrayLike | Tensor,
        features: ArrayLike | Tensor,
        normalizer: Normalizer | None = None,
    ) -> Block:
        """Check and cast rows of the pool; only these rows are ever held as float32.

        Args:
            sample_ids: (N,) distinct integers.
            features: (N, D), D >= 1, of any real type (float16 as it is stored, for one).
            normalizer: Applied to the features as float32.

        Raises:
            PoolError: a feature is NaN, infinite or above LARGEST, normalized or not, or a row of float64 is
                too small for float32; the message names sample ids.
            ValueError: shapes or types do not fit.
        """
        raw = as_features(features)
        ids = as_sample_ids(sample_ids).to(raw.device)
        if raw.ndim != 2 or raw.shape[1] == 0 or ids.shape != raw.shape[:1]:
            raise ValueError(
                f"ids {tuple(ids.shape)} and features {tuple(raw.shape)} are not (N,) and (N, D)"
            )
        x = raw.to(torch.float32).contiguous()
        _refuse(ids, raw, x)
        if normalizer is None or normalizer.kind == "none":
            return cls(ids, x)
        normalized = normalizer(x).contiguous()
        _refuse(ids, normalized, normalized, f" after normalize={normalizer.kind}")
        return cls(ids, normalized)

    def __len__(self) -> int:
        return self.features.shape[0]


def _refuse(ids: Tensor, raw: Tensor, x: Tensor, when: str = "") -> None:
    """Raise a PoolError naming the first samples of whose features (N, D) float32 has no right distances."""
    largest = x.abs().amax(dim=1)
    bad = ~(largest <= LARGEST)
    if bool(bad.any()):
        # As they came: float64 may be finite where float32 is not.
        rows, ids = raw[bad].to(torch.float64), ids[bad]
        broken = ~rows.isfinite().all(dim=1)
        if bool(broken.any()):
            raise PoolError(
                f"features of sample ids {_named(ids[broken])} are NaN or infinite{when}; check the model's "
                "weights, or leave these samples out of the pool"
            )
        raise PoolError(
            f"features of sample ids {_named(ids)} reach {float(rows.abs().max()):.1e}{when}: above "
            f"{LARGEST:.0e} distances leave the range of float32; divide all features by one number, or "
            "leave these samples out of the pool"
        )
    if raw.dtype != torch.float64:
        return
    bad = largest < torch.finfo(torch.float32).tiny
    bad[bad.clone()] = (raw[bad] != 0).any(dim=1)
    if bool(bad.any()):
        raise PoolError(
            f"features of sample ids {_named(ids[bad])} are {float(raw[bad].abs().max()):.1e} at most, too "
            "small for float32; multiply all features by one number"
        )


def _named(ids: Tensor) -> str:
    """The first of some sample ids, and how many more there are."""
    more = f" and {len(ids) - NAMED_IN_ERRORS} more" if len(ids) > NAMED_IN_ERRORS else ""
    return ", ".join(str(i) for i in ids[:NAMED_IN_ERRORS].tolist()) + more

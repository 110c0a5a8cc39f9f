"""A run of the pool's rows, checked and cast: what one task of a neighbour search holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import PoolError
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
        sample_ids: np.ndarray | Tensor,
        features: np.ndarray | Tensor,
        normalizer: Normalizer | None = None,
    ) -> Block:
        """Check and cast rows of the pool; only these rows are ever held as float32.

        Args:
            sample_ids: (N,) distinct integers.
            features: (N, D), D >= 1, of any floating type (float16 as it is stored, for one).
            normalizer: Applied to the features as float32.

        Raises:
            PoolError: a feature is NaN, infinite or above LARGEST; the message names sample ids.
            ValueError: shapes do not fit.
        """
        x = torch.as_tensor(features)
        ids = torch.as_tensor(sample_ids).to(device=x.device, dtype=torch.int64)
        if x.ndim != 2 or x.shape[1] == 0 or ids.shape != x.shape[:1]:
            raise ValueError(f"ids {tuple(ids.shape)} and features {tuple(x.shape)} are not (N,) and (N, D)")
        x = x.to(torch.float32).contiguous()
        _refuse_non_finite(ids, x)
        return cls(ids, normalizer(x).contiguous() if normalizer else x)

    def __len__(self) -> int:
        return self.features.shape[0]


def _refuse_non_finite(ids: Tensor, x: Tensor) -> None:
    """Raise a PoolError naming the first samples with a feature whose distances are no numbers."""
    bad = ~(x.abs() <= LARGEST).all(dim=1)
    count = int(bad.sum())
    if count:
        named = ", ".join(str(i) for i in ids[bad][:NAMED_IN_ERRORS].tolist())
        more = f" and {count - NAMED_IN_ERRORS} more" if count > NAMED_IN_ERRORS else ""
        raise PoolError(
            f"features of sample ids {named}{more} are NaN or infinite, or larger than {LARGEST:.0e}; "
            "check the model's weights, or leave these samples out of the pool"
        )

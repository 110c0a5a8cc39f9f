"""A run of the pool's rows, checked and cast: what one task of a neighbour search holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import ConfigError, PoolError

Normalize = Literal["none", "l2"]

NAMED_IN_ERRORS = 5


@dataclass(frozen=True, eq=False)
class Block:
    """N rows of the pool, in ascending order of their sample ids.

    Attributes:
        sample_ids: (N,) int64, strictly ascending.
        features: (N, D) float32, finite, contiguous, on any device.
    """

    sample_ids: Tensor
    features: Tensor

    @classmethod
    def make(
        cls,
        sample_ids: np.ndarray | Tensor,
        features: np.ndarray | Tensor,
        normalize: Normalize = "none",
    ) -> Block:
        """Check and cast rows of the pool; only these rows are ever held as float32.

        Args:
            sample_ids: (N,) integers, strictly ascending.
            features: (N, D), D >= 1, of any floating type (float16 as it is stored, for one).
            normalize: `l2` divides each row by its Euclidean norm (zero rows stay zero), `none` does not.

        Raises:
            PoolError: a feature is NaN or infinite; the message names the first such sample ids.
            ConfigError: `normalize` is neither `none` nor `l2`.
            ValueError: shapes do not fit, or ids do not ascend.
        """
        if normalize not in ("none", "l2"):
            raise ConfigError(f"normalize={normalize!r} is unknown; use one of: none, l2")
        x = torch.as_tensor(features)
        ids = torch.as_tensor(sample_ids).to(device=x.device, dtype=torch.int64)
        if x.ndim != 2 or x.shape[1] == 0 or ids.shape != x.shape[:1]:
            raise ValueError(f"ids {tuple(ids.shape)} and features {tuple(x.shape)} are not (N,) and (N, D)")
        if bool((ids[1:] <= ids[:-1]).any()):
            raise ValueError("sample ids of a block must be strictly ascending")
        x = x.to(torch.float32).contiguous()
        _refuse_non_finite(ids, x)
        if normalize == "l2":
            x = torch.nn.functional.normalize(x, dim=1)
        return cls(ids, x)

    def __len__(self) -> int:
        return self.features.shape[0]

    def same_rows(self, other: Block) -> bool:
        """Tell whether both blocks are the same rows of the pool (by id, so a copy counts)."""
        return self is other or torch.equal(self.sample_ids, other.sample_ids)


def _refuse_non_finite(ids: Tensor, x: Tensor) -> None:
    """Raise a PoolError naming the first samples with a NaN or infinite feature."""
    bad = ~torch.isfinite(x).all(dim=1)
    count = int(bad.sum())
    if count:
        named = ", ".join(str(i) for i in ids[bad][:NAMED_IN_ERRORS].tolist())
        more = f" and {count - NAMED_IN_ERRORS} more" if count > NAMED_IN_ERRORS else ""
        raise PoolError(
            f"features of sample ids {named}{more} are NaN or infinite; "
            "check the model's weights, or leave these samples out of the pool"
        )

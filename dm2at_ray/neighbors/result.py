"""What a neighbour search returns, and how partial results become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MISSING_ID = -1


@dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbours of N samples, each row sorted by distance, ties by the smaller id.

    Attributes:
        ids: (N, k) int64 sample ids; a missing neighbour is -1 and stands at the end of its row.
        distances: (N, k) float32; a missing neighbour is at +inf.
    """

    ids: Tensor
    distances: Tensor

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.distances.shape:
            raise ValueError(
                f"ids {tuple(self.ids.shape)} and distances {tuple(self.distances.shape)} differ"
            )
        if self.ids.dtype != torch.int64 or self.distances.dtype != torch.float32:
            raise ValueError(
                f"ids must be int64 and distances float32, not {self.ids.dtype}, {self.distances.dtype}"
            )

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def k(self) -> int:
        """Neighbours a row has room for."""
        return self.ids.shape[1]

    def numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, distances) as NumPy arrays in host memory, ready for Arrow."""
        return self.ids.cpu().numpy(), self.distances.cpu().numpy()


def merge(parts: Sequence[Neighbors], k: int) -> Neighbors:
    """Keep each row's k nearest of several partial results for the same rows.

    Associative and commutative, so parts may be merged in any order and grouping, as a tree of tasks does,
    as long as no step keeps fewer than the final k. A neighbour may stand in one of the parts only.

    Args:
        parts: one or more results with N rows each; their own k may differ from each other.
        k: neighbours to keep, at least 1; rows with fewer are filled with missing ones.

    Returns:
        N rows of k neighbours.

    Raises:
        ValueError: there are no parts, k < 1, or the parts have different numbers of rows.

    Examples:
        >>> near = Neighbors(torch.tensor([[7, 3]]), torch.tensor([[0.5, 2.0]]))
        >>> far = Neighbors(torch.tensor([[1, -1]]), torch.tensor([[2.0, torch.inf]]))
        >>> merge([near, far], k=2)
        Neighbors(ids=tensor([[7, 1]]), distances=tensor([[0.5000, 2.0000]]))
    """
    if not parts:
        raise ValueError("merge needs at least one part")
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"parts have different numbers of rows: {[len(part) for part in parts]}")
    ids = torch.cat([part.ids for part in parts], dim=1)  # (N, sum of the parts' k)
    distances = torch.cat([part.distances for part in parts], dim=1)
    last = torch.iinfo(torch.int64).max
    # Missing ones go behind even a neighbour whose distance overflowed to +inf.
    ids = torch.where(ids == MISSING_ID, last, ids)
    ids, order = ids.sort(dim=1)
    distances, nearest = distances.gather(1, order).sort(dim=1, stable=True)
    ids, distances = ids.gather(1, nearest)[:, :k], distances[:, :k]
    short = k - ids.shape[1]
    if short > 0:
        ids = torch.cat([ids, ids.new_full((len(ids), short), last)], dim=1)
        distances = torch.cat([distances, distances.new_full((len(ids), short), torch.inf)], dim=1)
    return Neighbors(torch.where(ids == last, MISSING_ID, ids), distances.contiguous())

"""The k nearest found so far of every row of a block."""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.result import MISSING_ID, Neighbors

# A float32 >= 0 orders as its bits do: (distance, position) packs into one int64 that sorts as the pair does.
_MISSING_KEY = (0x7F800000 << 32) | 0x7FFFFFFF  # +inf at the last position


class RunningTopK:
    """N x k packed (distance, position) keys, 8 bytes each: each row's k nearest among what was offered.

    A position is a row number of the block searched in; its ids ascend, so ties go to the smaller id.
    The result does not depend on the order of the offers.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self._keys = torch.full((rows, k), _MISSING_KEY, dtype=torch.int64, device=device)

    def worst(self, rows: slice) -> Tensor:
        """Return the k-th distance of these rows, float32: +inf where fewer than k were found."""
        return (self._keys[rows, -1] >> 32).to(torch.int32).view(torch.float32)

    def offer(self, rows: Tensor, positions: Tensor, distances: Tensor) -> None:
        """Take in P found pairs; a pair of (row, position) may be offered once only.

        Args:
            rows: (P,) int64 rows that found something.
            positions: (P,) int64 what they found.
            distances: (P,) float32 >= 0, how far it is.
        """
        k = self._keys.shape[1]
        # (P,) each, until they are spread over the T rows touched.
        key = (distances.view(torch.int32).to(torch.int64) << 32) | positions
        better = key < self._keys[:, -1][rows]
        rows, key = rows[better], key[better]
        if rows.shape[0] == 0:
            return
        key, order = key.sort()
        rows, stable = rows[order].sort(stable=True)
        key = key[stable]
        touched, inverse, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        first = counts.cumsum(0) - counts
        rank = torch.arange(rows.shape[0], device=rows.device) - first[inverse]
        width = min(k, int(counts.max()))
        fits = rank < width
        offered = self._keys.new_full((touched.shape[0], width), _MISSING_KEY)
        offered[inverse[fits], rank[fits]] = key[fits]
        both = torch.cat([self._keys[touched], offered], dim=1)  # (T, k + W)
        self._keys[touched] = both.sort(dim=1).values[:, :k]

    def result(self, sample_ids: Tensor) -> Neighbors:
        """Return what was found, positions turned into the sample ids of the block searched in."""
        distances = (self._keys >> 32).to(torch.int32).view(torch.float32)
        missing = self._keys == _MISSING_KEY
        positions = (self._keys & 0x7FFFFFFF).masked_fill_(missing, 0)
        if sample_ids.shape[0] == 0:
            return Neighbors(torch.full_like(positions, MISSING_ID), distances)
        return Neighbors(sample_ids[positions].masked_fill_(missing, MISSING_ID), distances)

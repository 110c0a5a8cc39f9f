"""The k nearest of each row as packed keys: what the engines' backends keep and return."""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.result import MISSING_ID, Neighbors

# A float32 >= 0 orders as its bits do: (distance, order) packs into one int64 that sorts as the pair does.
MISSING_KEY = (0x7F800000 << 32) | 0x7FFFFFFF  # +inf at the last place


class RunningTopK:
    """N x k packed (distance, order) keys, 8 bytes each: each row's k nearest among what was offered.

    The order is the rank of a sample id in the block searched in, so ties go to the smaller id. The result
    does not depend on the order of the offers.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.keys = torch.full((rows, k), MISSING_KEY, dtype=torch.int64, device=device)

    def worst(self, rows: slice) -> Tensor:
        """Return the k-th distance of these rows, float32: +inf where fewer than k were found."""
        return distances_of(self.keys[rows, -1])

    def offer(self, rows: Tensor, order: Tensor, distances: Tensor) -> None:
        """Take in P found pairs; a pair of (row, order) may be offered once only.

        Args:
            rows: (P,) int64 rows that found something.
            order: (P,) int64 what they found.
            distances: (P,) float32 >= 0, how far it is.
        """
        k = self.keys.shape[1]
        # (P,) each, until they are spread over the T rows touched.
        key = (distances.view(torch.int32).to(torch.int64) << 32) | order
        better = key < self.keys[:, -1][rows]
        rows, key = rows[better], key[better]
        if rows.shape[0] == 0:
            return
        key, by_key = key.sort()
        rows, stable = rows[by_key].sort(stable=True)
        key = key[stable]
        touched, inverse, counts = rows.unique_consecutive(return_inverse=True, return_counts=True)
        first = counts.cumsum(0) - counts
        rank = torch.arange(rows.shape[0], device=rows.device) - first[inverse]
        width = min(k, int(counts.max()))
        fits = rank < width
        offered = self.keys.new_full((touched.shape[0], width), MISSING_KEY)
        offered[inverse[fits], rank[fits]] = key[fits]
        both = torch.cat([self.keys[touched], offered], dim=1)  # (T, k + W)
        self.keys[touched] = both.sort(dim=1).values[:, :k]


def distances_of(keys: Tensor) -> Tensor:
    """Return the float32 distances in keys of any shape."""
    return (keys >> 32).to(torch.int32).view(torch.float32)


def neighbors_of(keys: Tensor, sorted_ids: Tensor) -> Neighbors:
    """Turn keys (N, k) into Neighbors, given the ids (M,) of the block searched in, ascending."""
    missing = keys == MISSING_KEY
    order = (keys & 0x7FFFFFFF).masked_fill_(missing, 0)
    if sorted_ids.shape[0] == 0:
        return Neighbors(torch.full_like(order, MISSING_ID), distances_of(keys))
    return Neighbors(sorted_ids[order].masked_fill_(missing, MISSING_ID), distances_of(keys))


def merge_keys(a: Tensor, b: Tensor) -> Tensor:
    """Keep each row's k smallest of two (N, k) tables of keys; a key that stands in both counts once."""
    both = torch.cat([a, b], dim=1).sort(dim=1).values
    repeated = torch.zeros_like(both, dtype=torch.bool)
    repeated[:, 1:] = both[:, 1:] == both[:, :-1]
    if bool((repeated & (both != MISSING_KEY)).any()):
        both = both.masked_fill(repeated, MISSING_KEY).sort(dim=1).values
    return both[:, : a.shape[1]].contiguous()

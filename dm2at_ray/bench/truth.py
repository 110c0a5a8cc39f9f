"""The right answers of random queries, found by brute force that shares no code with the engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.algorithm.distance import distance, pairwise_distance

COLUMNS = 8192
"""Rows of the pool measured against all queries at once."""

SPARE = 32
"""Rows kept beyond the nearest wanted, so that float32 order need not be trusted at the border."""

TIE = 1e-6
"""A neighbour counts if its D exceeds the k-th true one by no more than this share."""

PAIRS = 1 << 22
"""Float64 values gathered at once."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Distances of Q queries to their nearest rows, checked in float64.

    Attributes:
        queries: (Q,) int64 row numbers.
        nearest: (Q, m) float64, ascending: D to the m nearest other rows.
    """

    queries: Tensor
    nearest: Tensor

    @classmethod
    def find(cls, features: np.ndarray, queries: np.ndarray, m: int, device: torch.device) -> Truth:
        """Measure D from every query to every row in float32, and to the nearest ones again in float64.

        D in float32 is within (d + 8) * 2^-23 of the true one. A query for which some row that was not
        measured again could be among the m nearest by this bound is measured in float64 in full.

        Args:
            features: (N, D) float32.
            queries: (Q,) int64 row numbers.
            m: nearest rows wanted, less than N.
            device: where to measure.
        """
        rows, d = features.shape
        keep = min(m + SPARE, rows - 1)
        index = torch.from_numpy(queries).to(device)
        x = torch.from_numpy(features[queries]).to(device)  # (Q, D)
        near_d = x.new_empty(len(x), 0)
        near = index.new_empty(len(x), 0)
        for start in range(0, rows, COLUMNS):
            part = torch.from_numpy(features[start : start + COLUMNS]).to(device)  # (M, D)
            d_part = pairwise_distance(x, part)  # (Q, M)
            columns = torch.arange(start, start + len(part), device=device)
            d_part[index[:, None] == columns] = torch.inf
            both_d = torch.cat([near_d, d_part], dim=1)
            both = torch.cat([near, columns.expand(len(x), -1)], dim=1)
            near_d, chosen = both_d.topk(min(keep, both.shape[1]), dim=1, largest=False)
            near = both.gather(1, chosen)
        nearest = true_distances(features, queries, near.cpu().numpy()).sort(dim=1).values[:, :m]
        if keep < rows - 1:
            unseen = near_d[:, -1].cpu().double() * (1 - (d + 8) * 2.0**-23)
            for query in (unseen < nearest[:, -1]).nonzero()[:, 0].tolist():
                nearest[query] = _nearest_in_full(features, int(queries[query]), m)
        return cls(torch.from_numpy(queries), nearest)

    def recall(self, features: np.ndarray, k: int, ids: np.ndarray) -> float:
        """Return the share of the k nearest that an answer has, over the first queries.

        Any row as near as the k-th nearest counts, so that another choice among ties is no fault; the query
        itself, a row named twice and one that does not exist do not.

        Args:
            features: (N, D) float32.
            k: neighbours of each query.
            ids: (P, k) int64 row numbers answered for the first P queries, P <= Q.
        """
        queries = self.queries[: len(ids)].numpy()
        answered = np.sort(ids, axis=1)
        valid = (answered >= 0) & (answered < len(features)) & (answered != queries[:, None])
        valid[:, 1:] &= answered[:, 1:] != answered[:, :-1]
        measured = true_distances(features, queries, np.where(valid, answered, 0)).numpy()  # (P, k)
        limit = self.nearest[: len(ids), k - 1 : k].numpy() * (1 + TIE)
        return float((valid & (measured <= limit)).mean())


def query_order(rows: int, seed: int) -> np.ndarray:
    """Return (rows,) int64, all row numbers in the random order in which they are queried."""
    return np.random.default_rng([seed, rows]).permutation(rows)


def true_distances(features: np.ndarray, queries: np.ndarray, ids: np.ndarray) -> Tensor:
    """Return (Q, m) float64, D from each query to the rows named for it.

    Args:
        features: (N, D) float32.
        queries: (Q,) int64 row numbers.
        ids: (Q, m) int64 row numbers.
    """
    step = max(1, PAIRS // max(1, ids.shape[1] * features.shape[1]))
    parts = [
        distance(
            torch.from_numpy(features[queries[start : start + step], None].astype(np.float64)),
            torch.from_numpy(features[ids[start : start + step]].astype(np.float64)),
        )
        for start in range(0, len(queries), step)
    ]
    return torch.cat(parts)


def _nearest_in_full(features: np.ndarray, query: int, m: int) -> Tensor:
    """Return (m,) float64, D to the m nearest other rows, all rows measured in float64."""
    measured = []
    for start in range(0, len(features), COLUMNS):
        columns = np.arange(start, min(start + COLUMNS, len(features)))[None]
        measured.append(true_distances(features, np.array([query]), columns)[0])
    d = torch.cat(measured)
    d[query] = torch.inf
    return d.topk(m, largest=False).values

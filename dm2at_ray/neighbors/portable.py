"""The search by plain torch, on any device: slow, and what the compiled kernels are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.topk import MISSING_KEY, RunningTopK, distances_of, merge_keys

TILE_ROWS = 1024
DISTANCES_AT_ONCE = 1 << 24
ENCODED_AT_ONCE = 1 << 22

# Bytes of |x - y| held at once on a CPU: about what a core's second-level cache keeps.
CACHE_BYTES = 1 << 21


def search_ranges(
    x: Encoded, y: Encoded, pairs: np.ndarray, *, k: int, metric: Metric, step: float, threads: int
) -> tuple[Tensor, Tensor]:
    """Search pairs of ranges, see `backend`; the certified filter takes L1 of the features themselves."""
    best_x = RunningTopK(len(x), k, x.features.device)
    best_y = best_x if x is y else RunningTopK(len(y), k, y.features.device)
    for x_begin, x_end, y_begin, y_end in np.asarray(pairs, np.int64).reshape(-1, 4).tolist():
        diagonal = x is y and x_begin == y_begin
        for p in range(x_begin, x_end, TILE_ROWS):
            for q in range(p if diagonal else y_begin, y_end, TILE_ROWS):
                rows = slice(p, min(p + TILE_ROWS, x_end))
                columns = slice(q, min(q + TILE_ROWS, y_end))
                if x.radius is None:
                    worst = best_x.worst(rows), best_y.worst(columns)
                    mask = _certified(x, rows, y, columns, *worst, k, metric)
                else:
                    mask = _within_radius(x, rows, y, columns)
                if diagonal and p == q:
                    mask.triu_(diagonal=1)
                i, j = mask.nonzero(as_tuple=True)
                i, j = i + rows.start, j + columns.start
                d = metric.of_pairs(x.features, i, y.features, j)
                for best, block, other, of, found in ((best_x, x, y, i, j), (best_y, y, x, j, i)):
                    near = d <= block.limit[of] if x.radius is None else slice(None)
                    best.offer(of[near], other.order[found[near]], d[near])
    return best_x.keys, best_y.keys


def search_lists(
    search: Callable[..., tuple[Tensor, Tensor]],
    x: Encoded,
    y: Encoded,
    rows: np.ndarray,
    pairs: np.ndarray,
    *,
    k: int,
    metric: Metric,
    step: float,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Search pairs of a list of x's rows and a range of y by any search of ranges: listed rows are copied.

    The lists are taken a few at a time, no more rows than the blocks have; pairs met twice count once.
    """
    keys_x = RunningTopK(len(x), k, x.features.device).keys
    keys_y = keys_x if x is y else RunningTopK(len(y), k, y.features.device).keys
    for listed, ranges in _parts(rows, pairs, len(x) + len(y)):
        at = torch.from_numpy(listed).to(x.features.device)
        copies = _rows(x, at, torch.minimum(x.limit, distances_of(keys_x[:, -1])))
        tightened = replace(y, limit=torch.minimum(y.limit, distances_of(keys_y[:, -1])))
        # A row may meet itself, which would take the place of a neighbour: look for one more.
        wanted = k + 1 if x is y else k
        found = search(copies, tightened, ranges, k=wanted, metric=metric, step=step, threads=threads)
        of_x, of_y = _merged_copies(found[0], at, len(x)), found[1]
        if x is y:
            both = merge_keys(_without_self(of_x, x.order), _without_self(of_y, x.order))
            keys_x = keys_y = merge_keys(keys_x, both[:, :k])
        else:
            keys_x, keys_y = merge_keys(keys_x, of_x), merge_keys(keys_y, of_y)
    return keys_x, keys_y


def _parts(rows: np.ndarray, pairs: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut the entries such that about `most` rows are listed at a time: rows, and ranges (P, 4) of them."""
    sizes = pairs[:, 1] - pairs[:, 0]
    part = np.cumsum(sizes) // max(1, most)
    for entries in np.split(pairs, np.flatnonzero(np.diff(part)) + 1):
        if len(entries):
            ends = np.cumsum(entries[:, 1] - entries[:, 0])
            ranges = np.stack([np.roll(ends, 1), ends, entries[:, 2], entries[:, 3]], axis=1)
            ranges[0, 0] = 0
            yield np.concatenate([rows[begin:end] for begin, end in entries[:, :2].tolist()]), ranges


def _rows(block: Encoded, at: Tensor, limit: Tensor) -> Encoded:
    """Copy listed rows; their limit (N,) is given."""
    return Encoded(
        sample_ids=block.sample_ids[at],
        features=block.features[at],
        codes=block.codes[at],
        residuals=block.residuals[at],
        order=block.order[at],
        limit=limit[at],
    )


def _merged_copies(keys: Tensor, at: Tensor, rows: int) -> Tensor:
    """Merge what copies (R, k) of the rows `at` (R,) have found into a table (rows, k)."""
    merged = RunningTopK(rows, keys.shape[1], keys.device).keys
    order = torch.argsort(at, stable=True)
    repeats = torch.bincount(at, minlength=rows)
    # One copy of each row at a time, so that no merge has a row twice.
    turn = torch.arange(len(at), device=at.device) - (repeats.cumsum(0) - repeats)[at[order]]
    for number in range(int(repeats.max())):
        copies = order[turn == number]
        merged[at[copies]] = merge_keys(merged[at[copies]], keys[copies])
    return merged


def _without_self(keys: Tensor, order: Tensor) -> Tensor:
    """Drop each row itself from what it has found."""
    itself = ((keys & 0x7FFFFFFF) == order[:, None]) & (keys != MISSING_KEY)
    return keys.masked_fill(itself, MISSING_KEY).sort(dim=1).values


def measure(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Return D of all pairs (Q, N) float32 of rows (Q, D) and (N, D)."""
    q, n = x.shape[0], y.shape[0]
    i = torch.arange(q, device=x.device).repeat_interleave(n)
    return metric.of_pairs(x, i, y, torch.arange(n, device=x.device).repeat(q)).view(q, n)


@dataclass(frozen=True, eq=False)
class CentredCodes:
    """Codes (N, D) uint8 less 128 as floats wide enough for a matrix product of them to stay exact.

    Attributes:
        values: (N, D) float32, or float64 from 1,024 dimensions on.
        squares: (N,) their squared L2 norms, int32, or int64 above 32,767 dimensions.
    """

    values: Tensor
    squares: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> CentredCodes:
        """Centre codes (N, D)."""
        # Products of centred codes are at most 2^14, and float32 counts to 2^24.
        values = codes.to(torch.float32 if codes.shape[1] < 2**10 else torch.float64).sub_(128)
        whole = torch.int32 if codes.shape[1] < 2**15 else torch.int64
        return cls(values, values.square().sum(dim=1).to(whole))

    def squared_l2(self, other: CentredCodes) -> Tensor:
        """Return the squared L2 distances (N, M) of the codes, exactly."""
        dots = (self.values @ other.values.T).to(self.squares.dtype)
        return dots.mul_(-2).add_(other.squares).add_(self.squares[:, None])


def nearest_codes(
    x: CentredCodes, y: CentredCodes, x_ids: Tensor, y_ids: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the `count` smallest squared L2 distances (N, count) to rows of another id, and the places."""
    squared, places = (x_ids.new_empty((len(x_ids), count)) for _ in range(2))
    step = max(1, DISTANCES_AT_ONCE // max(1, len(y_ids)))
    for start in range(0, len(x_ids), step):
        rows = slice(start, start + step)
        distances = CentredCodes(x.values[rows], x.squares[rows]).squared_l2(y)
        distances.masked_fill_(x_ids[rows, None] == y_ids, torch.iinfo(distances.dtype).max)
        nearest = distances.topk(count, dim=1, largest=False)
        squared[rows], places[rows] = nearest.values, nearest.indices
    return squared, places


def encode(features: Tensor, low: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return the codes (N, D) uint8 and residuals (N,) float64 of features (N, D); see `Quantizer`."""
    codes = torch.empty(features.shape, dtype=torch.uint8, device=features.device)
    residuals = torch.empty(features.shape[0], dtype=torch.float64, device=features.device)
    at_once = max(1, ENCODED_AT_ONCE // features.shape[1])
    for start in range(0, features.shape[0], at_once):
        rows = slice(start, start + at_once)
        scaled = features[rows].to(torch.float64).sub_(low).div_(step)
        rounded = scaled.round().clamp_(0, 255)
        codes[rows] = rounded.to(torch.uint8)
        residuals[rows] = scaled.sub_(rounded).abs_().sum(dim=1)
    return codes, residuals


def _within_radius(x: Encoded, rows: slice, y: Encoded, columns: slice) -> Tensor:
    assert x.radius is not None
    assert y.radius is not None
    squared = CentredCodes.of(x.codes[rows]).squared_l2(CentredCodes.of(y.codes[columns]))
    return squared <= torch.maximum(x.radius[rows, None], y.radius[columns])


def _certified(
    x: Encoded,
    rows: slice,
    y: Encoded,
    columns: slice,
    worst_x: Tensor,
    worst_y: Tensor,
    k: int,
    metric: Metric,
) -> Tensor:
    """Return the pairs whose lower bound is within reach of either row's k-th distance."""
    l1 = pairwise_l1(x.features[rows], y.features[columns])
    same = x is y and rows == columns
    if same:
        l1.fill_diagonal_(torch.inf)
    worst_x = torch.minimum(worst_x, x.limit[rows])
    worst_y = torch.minimum(worst_y, y.limit[columns])
    reach_x = _reach(l1, x.features[rows], y.features[columns], worst_x, k, metric)
    reach_y = reach_x if same else _reach(l1.T, y.features[columns], x.features[rows], worst_y, k, metric)
    return l1 <= torch.maximum(reach_x[:, None], reach_y)


def _reach(l1: Tensor, x: Tensor, y: Tensor, worst: Tensor, k: int, metric: Metric) -> Tensor:
    """Return (N,) the largest L1 with which a pair may still be among a row's k nearest.

    Rows that have not found k yet take as their k-th distance the largest D to the k nearest of this tile by
    L1: some k are that near, so the k nearest are no farther.
    """
    rows, columns = l1.shape
    if columns > k and bool(torch.isinf(worst).any()):
        near = l1.topk(k, dim=1, largest=False, sorted=False)
        i = torch.arange(rows, device=l1.device).repeat_interleave(k)
        measured = metric.of_pairs(x, i, y, near.indices.flatten()).view(rows, k)
        # A row itself, at +inf on the diagonal, is no neighbour.
        measured = measured.masked_fill(torch.isinf(near.values), torch.inf)
        worst = torch.minimum(worst, measured.amax(dim=1))
    dims = x.shape[1]
    return worst * (metric.rounding(dims) / metric.least_per_l1(dims)) + metric.underflow(dims)


def pairwise_l1(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|_1 as (N, M) float32, to within rounding.

    On a CPU a few rows at a time stay in cache, which is two to three times faster than torch.cdist.
    """
    if x.is_cuda:
        return torch.cdist(x, y, p=1.0)
    n, d = x.shape
    m = y.shape[0]
    step = max(1, CACHE_BYTES // (4 * m * d))
    l1 = x.new_empty(n, m)
    buffer = x.new_empty(step, m, d)
    for start in range(0, n, step):
        part_x = x[start : start + step, None]  # (S, 1, D)
        part = torch.sub(part_x, y, out=buffer[: part_x.shape[0]])
        torch.sum(part.abs_(), dim=2, out=l1[start : start + step])
    return l1

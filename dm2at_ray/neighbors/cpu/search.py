"""The CPU backend of the neighbour search: packs blocks for the kernels and shares the work among threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors.cpu import kernels
from dm2at_ray.neighbors.cpu.vectors import GROUP, LANES, ROWS_Y
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.portable import CentredCodes
from dm2at_ray.neighbors.topk import MISSING_KEY

TILE_ROWS = 512
"""Rows of a range searched at once: at 512 dimensions, codes of 256 KiB that a core's cache keeps."""
DOTS_AT_ONCE = 1 << 22
PACKED_ROWS = 4096
"""Rows brought into the kernels' order at a time."""


def search_ranges(
    x: Encoded, y: Encoded, pairs: np.ndarray, *, k: int, metric: Metric, step: float, threads: int
) -> tuple[Tensor, Tensor]:
    """Search pairs of ranges; see `backend`."""
    tiles = cut_pairs(np.asarray(pairs, np.int64).reshape(-1, 4), x is y)
    listed = np.concatenate([tiles, tiles[:, :2]], axis=1)
    return search_lists(x, y, np.arange(len(x)), listed, k=k, metric=metric, step=step, threads=threads)


def search_lists(
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
    """Search pairs of a list of x's rows and a range of y; see `backend`."""
    same = x is y
    certified = x.radius is None
    # An empty range may begin where there is no row.
    pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 2] < pairs[:, 3])]
    dims = x.features.shape[1]
    codes = _CodeUnits.of(metric, dims, step)
    side_x = _side(x, k, codes, as_x=True)
    if same:
        # Two views of one block: what is found goes to the same keys.
        side_y = side_x if certified else _side(y, k, codes, as_x=False)._replace(keys=side_x.keys)
    else:
        side_y = _side(y, k, codes, as_x=False)

    def run(part: np.ndarray) -> None:
        kernels.search_pairs(
            rows,
            part,
            same,
            certified,
            _words(dims),
            -(-dims // LANES) * LANES,
            side_x,
            side_y,
            np.float32(metric.l1_weight),
            np.float32(metric.l2_weight),
            codes.per_distance,
            codes.slack,
        )

    if threads <= 1 or len(pairs) <= 1:
        run(pairs)
    else:
        _run_in_rounds(run, pairs, same, len(x), len(y), threads)
    return torch.from_numpy(side_x.keys[: len(x)]), torch.from_numpy(side_y.keys[: len(y)])


@dataclass(frozen=True)
class _CodeUnits:
    """How distances under D are compared with the sum of absolute differences of codes."""

    per_distance: float
    slack: float

    @classmethod
    def of(cls, metric: Metric, dims: int, step: float) -> _CodeUnits:
        per_code = step * metric.least_per_l1(dims)
        return cls(metric.rounding(dims) / per_code, metric.underflow(dims) / per_code)

    def of_distances(self, distances: np.ndarray) -> np.ndarray:
        units = distances.astype(np.float64) * self.per_distance + self.slack
        return np.minimum(units, kernels.FAR).astype(np.int64) + 1


def _run_in_rounds(
    run: Callable[[np.ndarray], None], pairs: np.ndarray, same: bool, x_rows: int, y_rows: int, threads: int
) -> None:
    """Search pairs that share no rows side by side, so that no two threads write the same keys."""
    # In the order of a map of cells each pair waits for the one before it; tiles come in a better order.
    orders = pairs, np.random.default_rng(0).permutation(pairs)
    numbers = [kernels.rounds_of(each, same, x_rows, y_rows) for each in orders]
    pairs, number = min(zip(orders, numbers, strict=True), key=lambda each: each[1].max())
    order = np.argsort(number, kind="stable")
    bounds = np.flatnonzero(np.diff(number[order])) + 1
    with ThreadPoolExecutor(threads) as pool:
        for together in np.split(pairs[order], bounds):
            for done in [
                pool.submit(run, part) for part in np.array_split(together, min(threads, len(together)))
            ]:
                done.result()


def cut_pairs(pairs: np.ndarray, same: bool) -> np.ndarray:
    """Cut (P, 4) pairs of ranges into tiles, none of them empty; those that share no rows come together."""
    pairs = pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 2] < pairs[:, 3])]
    small = (pairs[:, 1] - pairs[:, 0] <= TILE_ROWS) & (pairs[:, 3] - pairs[:, 2] <= TILE_ROWS)
    if small.all():
        return np.ascontiguousarray(pairs)
    cut = [pairs[small]]
    for x_begin, x_end, y_begin, y_end in pairs[~small].tolist():
        xs, ys = _tiles(x_begin, x_end), _tiles(y_begin, y_end)
        if same and x_begin == y_begin:
            places = _round_robin(len(xs))
        else:
            places = [(p, (p + shift) % len(ys)) for shift in range(len(ys)) for p in range(len(xs))]
        cut.append(np.array([(*xs[p], *ys[q]) for p, q in places], np.int64).reshape(-1, 4))
    return np.concatenate(cut)


def _tiles(begin: int, end: int) -> list[tuple[int, int]]:
    return [(at, min(at + TILE_ROWS, end)) for at in range(begin, end, TILE_ROWS)]


def _round_robin(count: int) -> list[tuple[int, int]]:
    """All pairs p <= q of `count` tiles: the diagonal, then a tournament, each tile once in a round."""
    pairs = [(p, p) for p in range(count)]
    seats = count + count % 2
    for shift in range(seats - 1):
        for seat in range(seats // 2):
            p, q = (shift + seat) % (seats - 1), (shift - seat) % (seats - 1)
            if seat == 0:
                q = seats - 1
            if max(p, q) < count:
                pairs.append((min(p, q), max(p, q)))
    return pairs


def _words(dims: int) -> int:
    return -(-dims // 8)


def _side(block: Encoded, k: int, units: _CodeUnits, *, as_x: bool) -> kernels.Side:
    rows = len(block)
    padded = -(-rows // ROWS_Y) * ROWS_Y
    limit = np.full(padded, np.inf, np.float32)
    if block.radius is None:
        limit[:rows] = block.limit.numpy()
        # Sums of differences are far below FAR: a residual beyond it lets every pair pass already.
        residuals = np.minimum(block.residuals.numpy().astype(np.float64), kernels.FAR)
        base = _padded(np.ceil(residuals).astype(np.int64), padded)
        reach = units.of_distances(limit) + base
    else:
        # |u - v|^2 <= radius, with -2 u.(v - 128) on the left: what belongs to one row alone goes right.
        squares, sums = _squares_and_sums(block.codes)
        base = _padded(-squares.numpy() + (256 * sums.numpy() if as_x else 0), padded)
        reach = base + _padded(block.radius.numpy(), padded)
    return kernels.Side(
        codes=pack(block.codes.numpy(), _words(block.codes.shape[1])),
        features=_wide(block.features).numpy().reshape(-1),
        reach=reach,
        base=base,
        limit=limit,
        order=_padded(block.order.numpy(), padded),
        keys=np.full((padded, k), MISSING_KEY, np.int64),
    )


def _squares_and_sums(codes: Tensor) -> tuple[Tensor, Tensor]:
    squares = torch.empty(codes.shape[0], dtype=torch.int64)
    for start in range(0, codes.shape[0], 4096):
        squares[start : start + 4096] = codes[start : start + 4096].to(torch.int32).square().sum(dim=1)
    return squares, codes.sum(dim=1, dtype=torch.int64)


def pack(codes: np.ndarray, words: int) -> np.ndarray:
    """Bring (N, D) uint8 codes into the order of `Side.codes`, padded by zeros."""
    rows, dims = codes.shape
    packed = torch.zeros((-(-rows // ROWS_Y) * (ROWS_Y // GROUP), words, GROUP, 8), dtype=torch.uint8).numpy()
    for start in range(0, rows, PACKED_ROWS):
        part = codes[start : start + PACKED_ROWS]
        whole = np.zeros((-(-len(part) // GROUP) * GROUP, words * 8), np.uint8)
        whole[: len(part), :dims] = part
        grouped = whole.reshape(-1, GROUP, words, 8).transpose(0, 2, 1, 3)
        packed[start // GROUP : start // GROUP + len(grouped)] = grouped
    return packed.reshape(-1)


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(rows - len(values), values.dtype)])


def _wide(features: Tensor) -> Tensor:
    """Pad rows by zeros to a multiple of LANES, which changes no distance."""
    missing = -features.shape[1] % LANES
    return torch.nn.functional.pad(features, (0, missing)) if missing else features.contiguous()


def measure(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Return D of all pairs (Q, N) float32 of rows (Q, D) and (N, D), to the bits that the search returns."""
    out = torch.empty((x.shape[0], y.shape[0]), dtype=torch.float32)
    dims = -(-x.shape[1] // LANES) * LANES
    weights = np.float32(metric.l1_weight), np.float32(metric.l2_weight)
    wide_x, wide_y = _wide(x).numpy(), _wide(y).numpy().reshape(-1)

    def run(rows: slice) -> None:
        kernels.measure(wide_x[rows].reshape(-1), wide_y, dims, *weights, out[rows].numpy())

    _share(run, len(out))
    return out


def smallest(values: Tensor, count: int) -> Tensor:
    """Return the columns (N, count) int64 of each row's smallest values (N, M), the very smallest first."""
    out = torch.empty((values.shape[0], count), dtype=torch.int64)
    _share(lambda rows: kernels.smallest(values[rows].numpy(), out[rows].numpy()), len(out))
    return out


def encode(features: Tensor, low: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return the codes (N, D) uint8 and residuals (N,) float64 of features (N, D); see `Quantizer`."""
    codes = torch.empty(features.shape, dtype=torch.uint8)
    residuals = torch.empty(features.shape[0], dtype=torch.float64)
    features = features.contiguous()

    def run(rows: slice) -> None:
        parts = codes[rows].numpy(), residuals[rows].numpy()
        kernels.encode(features[rows].numpy(), low.numpy(), step, *parts)

    _share(run, len(features))
    return codes, residuals


def nearest_codes(
    x: CentredCodes, y: CentredCodes, x_ids: Tensor, y_ids: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the `count` smallest squared L2 distances (N, count) to rows of another id, and the places."""
    squared, places = (torch.empty((len(x_ids), count), dtype=torch.int64) for _ in range(2))
    squares_x, squares_y = (each.squares.to(torch.int64).numpy() for each in (x, y))
    step = max(1, DOTS_AT_ONCE // max(1, len(y_ids)))
    for start in range(0, len(x_ids), step):
        dots = (x.values[start : start + step] @ y.values.T).numpy()

        def run(rows: slice, dots: np.ndarray = dots, start: int = start) -> None:
            at = slice(start + rows.start, start + rows.stop)
            out = squared[at].numpy(), places[at].numpy()
            kernels.nearest_codes(
                dots[rows], squares_x[at], squares_y, x_ids[at].numpy(), y_ids.numpy(), *out
            )

        _share(run, len(dots))
    return squared, places


def _share(run: Callable[[slice], None], rows: int) -> None:
    """Share rows among as many threads as torch uses."""
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        run(slice(0, rows))
        return
    bounds = np.linspace(0, rows, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run, slice(*each)) for each in itertools.pairwise(bounds)]:
            done.result()

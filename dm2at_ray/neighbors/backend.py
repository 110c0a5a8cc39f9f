"""Where a search runs: numba's kernels on a CPU, Triton's on a GPU, plain torch where neither can be used."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors import portable
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.portable import CentredCodes


def search_ranges(
    x: Encoded, y: Encoded, pairs: np.ndarray, *, k: int, metric: Metric, step: float, threads: int = 1
) -> tuple[Tensor, Tensor]:
    """Find the k nearest of each row among listed pairs of row ranges.

    With `radius` unset the filter is certified: a pair is left out only where its lower bound under D,
    step * (l1_weight + l2_weight / sqrt(D)) * (SAD of codes - both residuals), is above the limit and the
    k-th distance found so far of both its rows. With `radius` the candidates are exactly the pairs whose
    squared L2 of codes is at most the radius of either row. Candidates are measured under D in float32, to
    the same bits wherever a pair is met.

    Args:
        x: A block.
        y: Another, or the same object.
        pairs: (P, 4) int64 row ranges x_begin, x_end, y_begin, y_end. Where `x is y`, a pair of equal ranges
            means its part above the diagonal. The ranges of a side are equal or disjoint, and no two rows
            meet twice.
        k: Neighbours to keep.
        metric: D.
        step: Of the quantizer that made the codes.
        threads: CPU threads.

    Returns:
        Keys (len(x), k) and (len(y), k), see `topk`; the same tensor where `x is y`.
    """
    if x.features.is_cuda:
        if _gpu_works(x.features.device):
            from dm2at_ray.neighbors.gpu.search import search_ranges as on_gpu

            return on_gpu(x, y, pairs, k=k, metric=metric, step=step, threads=threads)
    elif _numba_works():
        from dm2at_ray.neighbors.cpu.search import search_ranges as on_cpu

        return on_cpu(x, y, pairs, k=k, metric=metric, step=step, threads=threads)
    return portable.search_ranges(x, y, pairs, k=k, metric=metric, step=step, threads=threads)


def search_lists(
    x: Encoded,
    y: Encoded,
    rows: np.ndarray,
    pairs: np.ndarray,
    *,
    k: int,
    metric: Metric,
    step: float,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest where each range of y meets listed rows of x; certified only.

    Args:
        x: A block.
        y: Another, or the same object.
        rows: (R,) int64 rows of x; those of one entry are all of one range of x, ascending.
        pairs: (P, 6) int64: where the entry's rows begin and end in `rows`, its range of y, and the range
            of x that its rows are of. Where `x is y` and both ranges are equal, a pair counts once. Two
            rows may meet twice.
        k: Neighbours to keep.
        metric: D.
        step: Of the quantizer that made the codes.
        threads: CPU threads.

    Returns:
        Keys (len(x), k) and (len(y), k), see `topk`; the same tensor where `x is y`.
    """
    if not x.features.is_cuda and _numba_works():
        from dm2at_ray.neighbors.cpu.search import search_lists as on_cpu

        return on_cpu(x, y, rows, pairs, k=k, metric=metric, step=step, threads=threads)
    return portable.search_lists(
        search_ranges, x, y, rows, pairs, k=k, metric=metric, step=step, threads=threads
    )


def measure(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """Return D of all pairs (Q, N) float32 of rows (Q, D) and (N, D), by no filter at all."""
    if x.is_cuda:
        if _gpu_works(x.device):
            from dm2at_ray.neighbors.gpu.measure import measure as on_gpu

            return on_gpu(x, y, metric)
    elif _numba_works():
        from dm2at_ray.neighbors.cpu.search import measure as on_cpu

        return on_cpu(x, y, metric)
    return portable.measure(x, y, metric)


def pair_distances(x: Tensor, i: Tensor, y: Tensor, j: Tensor, metric: Metric) -> Tensor:
    """Return D(x[i[p]], y[j[p]]) for each of P pairs as (P,) float32.

    Args:
        x: (N, D) float32, contiguous.
        i: (P,) int64 rows of x.
        y: (M, D) float32, contiguous.
        j: (P,) int64 rows of y.
        metric: D.
    """
    if x.is_cuda and _gpu_works(x.device):
        from dm2at_ray.neighbors.gpu.pairs import pair_distances as on_gpu

        return on_gpu(x, i.to(torch.int32), y, j.to(torch.int32), metric)
    return metric.of_pairs(x, i, y, j)


def encode(features: Tensor, low: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return the codes (N, D) uint8 and residuals (N,) float64 of features (N, D); see `Quantizer`."""
    if not features.is_cuda and _numba_works():
        from dm2at_ray.neighbors.cpu.search import encode as on_cpu

        return on_cpu(features, low, step)
    return portable.encode(features, low, step)


def nearest_codes(
    codes: Tensor, reference: Tensor, ids: Tensor, reference_ids: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Find the nearest of some reference rows by their codes.

    A GPU deals a large reference into groups and takes only the nearest of each, so that it may pass over a
    row that shares its group with a nearer one.

    Args:
        codes: (N, D) uint8.
        reference: (S, D) uint8.
        ids: (N,) int64.
        reference_ids: (S,) int64, ascending; a row does not find itself.
        count: At most S of them.

    Returns:
        The smallest squared L2 distances (N, count), ascending, and the places of the reference rows; above
        2^31 - 2 where there is no such row.
    """
    if codes.is_cuda and _gpu_works(codes.device):
        from dm2at_ray.neighbors.gpu import nearest

        group = nearest.group_size(len(reference), count, codes.shape[1])
        if group is not None:
            return nearest.nearest_codes(codes, reference, ids, reference_ids, count, group)
    x, y = CentredCodes.of(codes), CentredCodes.of(reference)
    if not codes.is_cuda and _numba_works():
        from dm2at_ray.neighbors.cpu.search import nearest_codes as on_cpu

        return on_cpu(x, y, ids, reference_ids, count)
    return portable.nearest_codes(x, y, ids, reference_ids, count)


def smallest(values: Tensor, count: int) -> Tensor:
    """Return the columns (N, count) int64 of each row's smallest values (N, M), the very smallest first."""
    if not values.is_cuda and _numba_works():
        from dm2at_ray.neighbors.cpu.search import smallest as on_cpu

        # torch.topk takes several times as long on a CPU.
        return on_cpu(values, count)
    return values.topk(count, dim=1, largest=False).indices


@lru_cache(maxsize=1)
def _numba_works() -> bool:
    try:
        import numba  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"numba cannot be imported ({error}): neighbours are searched by plain torch, some ten times "
            "slower; pip install numba",
            stacklevel=2,
        )
        return False
    return True


@lru_cache
def _gpu_works(device: torch.device) -> bool:
    from dm2at_ray.neighbors.gpu import available

    return available(device)

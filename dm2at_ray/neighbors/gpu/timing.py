"""How fast each kernel is on this GPU, and the search they make together: what `gpu.check` prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.gpu.gemm import GemmRows, GemmShape, launch_gemm
from dm2at_ray.neighbors.gpu.halves import COLUMNS, HalfRows, Scale, launch_halves
from dm2at_ray.neighbors.gpu.halves import ROWS as TILE_ROWS
from dm2at_ray.neighbors.gpu.measure import measure
from dm2at_ray.neighbors.gpu.pairs import pair_distances
from dm2at_ray.neighbors.gpu.sad import SadRows, SadShape, launch_sad, to_words
from dm2at_ray.neighbors.gpu.search import RangeSearch
from dm2at_ray.neighbors.gpu.survivors import Survivors
from dm2at_ray.neighbors.gpu.tiles import TileList
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.quantizer import Quantizer
from dm2at_ray.neighbors.topk import RunningTopK, distances_of

SAD_SHAPES = (
    SadShape(),
    SadShape(unroll=1),
    SadShape(unroll=4),
    SadShape(unroll=4, registers=168),
    SadShape(run=8),
)
GEMM_SHAPES = (
    GemmShape(),
    GemmShape(registers=168),
    GemmShape(stages=2),
    GemmShape(depth=64, stages=4),
    GemmShape(columns=256, registers=255),
)

Row = dict[str, object]

REPEATS = 5
PAIRS_LEFT = 2e-5
"""Share of the pairs that pass a filter while it is timed: 20 a row of a million."""

K = 10
SAMPLE = 16384
ROWS = 1 << 14
"""Rows compared with the sample at once: 1 GiB of distances."""


def seconds(work: Callable[[], object]) -> float:
    """Return the median device time of some calls, after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[REPEATS // 2]


def filters(n: int, d: int, device: torch.device) -> Iterator[Row]:
    """Time the filters on n x n pairs of random codes, for each way to cut their kernels."""
    random = torch.Generator(device).manual_seed(d)
    codes = [torch.randint(0, 256, (n, d), dtype=torch.uint8, device=device, generator=random) for _ in "xy"]
    sample = [c[:1024].to(torch.float32) for c in codes]
    sad = torch.cdist(sample[0], sample[1], p=1)
    zero = torch.zeros(n, dtype=torch.int32, device=device)
    left = max(1, int(sad.numel() * PAIRS_LEFT))
    reach = zero + int(sad.flatten().kthvalue(left).values)
    squared = torch.cdist(sample[0], sample[1]).square()
    radius = zero + int(squared.flatten().kthvalue(left).values)
    ranges = np.array([[0, n, 0, n]])
    common: Row = {"n": n, "d": d}
    for sad_shape in SAD_SHAPES:
        words = [SadRows(to_words(c, sad_shape), reach, zero) for c in codes]
        launch = partial(launch_sad, x=words[0], y=words[1], shape=sad_shape)
        tiles = TileList.cut(ranges, (sad_shape.rows, sad_shape.columns), same=False, device=device)
        yield {"kernel": "sad", **common, "shape": asdict(sad_shape), **_filter(launch, tiles, n * n * d)}
    scale = Scale(torch.zeros(d, dtype=torch.float64, device=device), 1.0)
    halves = [HalfRows(scale.words(c.float())[0], reach.float(), zero.float()) for c in codes]
    launch = partial(launch_halves, x=halves[0], y=halves[1])
    tiles = TileList.cut(ranges, (TILE_ROWS, COLUMNS), same=False, device=device)
    yield {"kernel": "halves", **common, **_filter(launch, tiles, n * n * d)}
    for gemm_shape in GEMM_SHAPES:
        centred = [GemmRows.of(c, radius, gemm_shape) for c in codes]
        launch = partial(launch_gemm, x=centred[0], y=centred[1], shape=gemm_shape)
        tiles = TileList.cut(ranges, (gemm_shape.rows, gemm_shape.columns), same=False, device=device)
        yield {"kernel": "int8", **common, "shape": asdict(gemm_shape), **_filter(launch, tiles, n * n * d)}


def _filter(launch: Callable[[Tensor, Survivors], None], tiles: TileList, work: int) -> Row:
    """Time a filter's launch over all of its tiles."""
    listed = tiles.rows(0, tiles.total)
    survivors = Survivors.empty(1 << 24, listed.device)

    def run() -> None:
        survivors.counter.zero_()
        launch(listed, survivors)

    try:
        took = seconds(run)
    # A shape may ask for more shared memory or registers than a device has; the others still count.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": took, "tpd_per_second": round(work / took / 1e12, 2), "pairs_left": survivors.found()}


def distances(n: int, d: int, device: torch.device) -> Iterator[Row]:
    """Time D of random single pairs, D of 1,024 queries to all rows, and the merge of found pairs."""
    metric = Metric()
    x = features(n, d, device)
    count = 1 << 22
    i, j = (torch.randint(0, n, (count,), dtype=torch.int32, device=device) for _ in range(2))
    took = seconds(lambda: pair_distances(x, i, x, j, metric))
    yield {
        "kernel": "pairs", "n": n, "d": d, "pairs": count, "seconds": took,
        "pairs_per_second": round(count / took), "gbytes_per_second": round(count * d * 8 / took / 1e9),
    }  # fmt: skip
    queries = x[:1024]
    took = seconds(lambda: measure(queries, x, metric))
    yield {
        "kernel": "measure", "n": n, "d": d, "queries": len(queries), "seconds": took,
        "tpd_per_second": round(len(queries) * n * d / took / 1e12, 2),
    }  # fmt: skip
    found = pair_distances(x, i, x, j, metric)
    rows, order = i.to(torch.int64), j.to(torch.int64)
    took = seconds(lambda: RunningTopK(n, K, device).offer(rows, order, found))
    yield {"kernel": "merge", "n": n, "k": K, "pairs": count, "seconds": took}


def searches(n: int, d: int, device: torch.device) -> Iterator[Row]:
    """Time the whole backend on one block, with limits and radii from a sample of rows, and audit it."""
    metric = Metric()
    x = features(n, d, device)
    chosen = torch.randperm(n, device=device)[: min(SAMPLE, n)]
    begin = _now()
    quantizer = Quantizer.fit(x[chosen[:4096]])
    codes, residuals = quantizer.encode(x)
    encoded = _now()
    # The row itself may be in the sample; and another order of summation may put a pair a little farther.
    limit = torch.cat([_nth(measure(part, x[chosen], metric), K + 1) for part in x.split(ROWS)])
    limit *= metric.rounding(d)
    limited = _now()
    radius = torch.cat([_nth(_squared(part, codes[chosen]), 3) for part in codes.split(ROWS)])
    ruled = _now()
    ids = torch.arange(n, device=device)
    common: Row = {
        "n": n, "d": d, "k": K, "seconds_encode": encoded - begin, "seconds_limits": limited - encoded,
        "seconds_radii": ruled - limited,
    }  # fmt: skip
    queries = torch.randperm(n, device=device)[:256]
    truth = measure(x[queries], x, metric)
    truth[torch.arange(len(queries), device=device), queries] = torch.inf
    # Distances, not ids, and the last bits of D depend on the kernel: ties count as found.
    kth = _nth(truth, K) * metric.rounding(d)
    for kind, found_by in (("certified", None), ("shortlist", radius.to(torch.int64))):
        block = Encoded(ids, x, codes, residuals, ids, limit, found_by)
        for attempt in ("first", "second"):
            begin = _now()
            search = RangeSearch(block, block, K, metric, quantizer.step)
            keys, _ = search.run(np.array([[0, n, 0, n]]))
            took = _now() - begin
            recall = (distances_of(keys[queries]) <= kth[:, None]).to(torch.float64).mean()
            yield {
                "search": kind, "attempt": attempt, "seconds": took, "recall": float(recall), **common,
                "tpd_per_second": round(n * n * d / took / 1e12, 2), "measured_per_row": search.measured / n,
                "redone": search.redone, "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            }  # fmt: skip


def features(n: int, d: int, device: torch.device) -> Tensor:
    """Return (n, d) float32 that look like a network's: ReLU of 16 hidden factors, and a little noise."""
    random = torch.Generator(device).manual_seed(n)
    weight = torch.randn(16, d, device=device, generator=random)
    x = torch.randn(n, 16, device=device, generator=random) @ weight
    return x.add_(torch.randn(n, d, device=device, generator=random), alpha=0.2).relu_()


def _squared(codes: Tensor, sample: Tensor) -> Tensor:
    """Return squared L2 of codes (N, D) and (S, D) uint8 as (N, S) float32; exact below 2^24."""
    x, y = codes.to(torch.float32), sample.to(torch.float32)
    products = x @ y.T
    return products.mul_(-2).add_(x.square().sum(1, keepdim=True)).add_(y.square().sum(1))


def _nth(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of each row."""
    return values.topk(k, dim=1, largest=False).values[:, -1]


def _now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()

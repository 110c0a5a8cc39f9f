"""The public search: k nearest neighbours of every sample of a pool under D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors.block import Block, Normalize
from dm2at_ray.neighbors.exact import Exact
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.result import Neighbors, merge
from dm2at_ray.neighbors.shortlist import Shortlist
from dm2at_ray.neighbors.tiles import TILE, Engine, search_tiles

ENGINES: dict[str, Callable[[int, Metric], Engine]] = {
    "exact": Exact,
    "shortlist": lambda k, metric: Shortlist(k),
}

# N^2 D up to which the exact engine takes about two seconds on one CPU core (4096 x 512: 2.0 s, 0.8 s by
# shortlist; 8192 x 64: 1.5 s, 1.2 s by shortlist): too little to ask whether the recall is good enough.
EXACT_WORK = 2**33


def choose_engine(n: int, d: int, k: int) -> str:
    """Name the engine that `auto` stands for; ask once for a whole pool, never for its parts.

    Args:
        n: rows of the whole pool.
        d: features of a row.
        k: neighbours wanted; for more than an eighth of a tile a shortlist would hold most of the pool.
    """
    return "exact" if n * n * d <= EXACT_WORK or 8 * k > TILE else "shortlist"


def search_pair(
    a: Block,
    b: Block,
    k: int,
    *,
    engine: str,
    l1_weight: float = 1.0,
    l2_weight: float = 1.0,
) -> tuple[Neighbors, Neighbors]:
    """Find the k nearest of each row of `a` among `b`, and of each row of `b` among `a`, under D.

    For the same rows twice, only pairs above the diagonal are measured, no row is its own neighbour, and
    both results are the same. Merged over all pairs of a pool's blocks, the result does not depend on how
    the pool was cut, bit for bit; with the shortlist engine, as long as blocks are cut at multiples of
    TILE = 1024 of the sample id.

    Memory beside the two blocks: O(TILE^2 + TILE * D) for a pair of tiles and 8 k bytes for a row of either.

    Args:
        a: a run of the pool's rows.
        b: the same run, or one whose ids are all greater or all smaller.
        k: neighbours to find, at least 1; rows with fewer have missing ones (id -1 at +inf).
        engine: a name in ENGINES; resolve `auto` by `choose_engine` for the whole pool first.
        l1_weight: weight of the L1 norm in D.
        l2_weight: weight of the L2 norm in D.

    Returns:
        Neighbors of a's rows among b, and of b's rows among a.

    Raises:
        ConfigError: an unknown engine, k < 1, or weights that make no metric.
        ValueError: the blocks overlap without being the same.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine={engine!r} is unknown; use one of: auto, {', '.join(ENGINES)}")
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1")
    metric = Metric(l1_weight, l2_weight)
    make = ENGINES[engine]
    if a.same_rows(b):
        return search_tiles(a, a, k, make(k, metric), metric)
    if len(a) and len(b):
        # The engines are given the smaller ids first: a matrix product is then the same whoever asks.
        if b.sample_ids[-1] < a.sample_ids[0]:
            of_b, of_a = search_tiles(b, a, k, make(k, metric), metric)
            return of_a, of_b
        if a.sample_ids[-1] >= b.sample_ids[0]:
            raise ValueError("blocks overlap: two blocks must be the same rows or runs apart")
    return search_tiles(a, b, k, make(k, metric), metric)


def search(
    features: np.ndarray | Tensor,
    k: int,
    *,
    sample_ids: np.ndarray | Tensor | None = None,
    engine: str = "auto",
    block_rows: int = 16384,
    l1_weight: float = 1.0,
    l2_weight: float = 1.0,
    normalize: Normalize = "none",
) -> Neighbors:
    """Find the k nearest neighbours of every sample of a pool under D, in this process.

    D(x, x') = l1_weight * |h(x) - h(x')|_1 + l2_weight * |h(x) - h(x')|_2: Step 2 of Algorithm 2
    (Song et al., Entropy 27(11):1159, 2025). A sample is never its own neighbour; a duplicate of it can be.

    Memory beside `features`: two blocks as float32, O(TILE^2 + TILE * D) for a pair of tiles with
    TILE = 1024, and 12 k bytes a row of the pool for the result.

    Args:
        features: (N, D) of any floating type, on any device; cast to float32 a block at a time.
        k: neighbours to find, 1 <= k < N.
        sample_ids: (N,) distinct integers, in any order; 0 .. N-1 if left out. The shortlist engine groups
            rows by sample id // TILE, so it is fast where ids are dense, as row numbers are.
        engine: `exact`, `shortlist` (recall above 0.999 on features of convolutional nets) or `auto`.
        block_rows: rows held as float32 at a time; changes neither ids nor distances.
        l1_weight: weight of the L1 norm in D.
        l2_weight: weight of the L2 norm in D.
        normalize: `l2` divides every row by its Euclidean norm first, `none` does not.

    Returns:
        Neighbors in the order of the rows of `features`.

    Raises:
        ConfigError: k is not in 1 .. N-1, ids repeat, or an option is unknown or out of range.
        PoolError: features are NaN or infinite.

    Examples:
        >>> found = search(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), k=1)
        >>> found.ids.flatten().tolist(), found.distances.flatten().tolist()
        ([2, 2, 0], [2.0, 10.242640495300293, 2.0])
    """
    x = torch.as_tensor(features)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"features must be (N, D), not {tuple(x.shape)}")
    n, d = x.shape
    if not 1 <= k < n:
        raise ConfigError(
            f"k={k} must be at least 1 and less than the pool's N={n} samples; lower k or widen the pool"
        )
    if block_rows < 1:
        raise ConfigError(f"block_rows={block_rows} must be at least 1")
    ids, order = _sorted_ids(sample_ids, n, x.device)
    if engine == "auto":
        engine = choose_engine(n, d, k)
    runs = _runs(ids, block_rows)

    def load(run: slice) -> Block:
        rows = x[run] if order is None else x[order[run]]
        return Block.make(ids[run], rows, normalize)

    best: list[Neighbors | None] = [None] * len(runs)
    for p, run_a in enumerate(runs):
        a = load(run_a)
        for q in range(p, len(runs)):
            b = a if q == p else load(runs[q])
            of_a, of_b = search_pair(a, b, k, engine=engine, l1_weight=l1_weight, l2_weight=l2_weight)
            best[p] = _with(best[p], of_a, k)
            if q != p:
                best[q] = _with(best[q], of_b, k)
    found = [part for part in best if part is not None]
    near_ids = torch.cat([part.ids for part in found])
    near_distances = torch.cat([part.distances for part in found])
    if order is None:
        return Neighbors(near_ids, near_distances)
    back = order.argsort()
    return Neighbors(near_ids[back], near_distances[back])


def _with(best: Neighbors | None, part: Neighbors, k: int) -> Neighbors:
    return part if best is None else merge([best, part], k)


def _sorted_ids(
    sample_ids: np.ndarray | Tensor | None, n: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the ids in ascending order, and the rows they stand at where these are not in that order."""
    if sample_ids is None:
        return torch.arange(n, device=device), None
    ids = torch.as_tensor(sample_ids).to(device=device, dtype=torch.int64)
    if ids.shape != (n,):
        raise ValueError(f"sample_ids must be ({n},), not {tuple(ids.shape)}")
    sorted, order = ids.sort()
    repeated = sorted[1:] == sorted[:-1]
    if bool(repeated.any()):
        raise ConfigError(
            f"sample id {int(sorted[1:][repeated][0])} stands more than once; ids must be distinct"
        )
    return sorted, None if torch.equal(sorted, ids) else order


def _runs(ids: Tensor, block_rows: int) -> list[slice]:
    """Cut the pool into runs of about `block_rows` rows, at multiples of TILE of the sample id only."""
    group = torch.div(ids, TILE, rounding_mode="floor")
    counts = group.unique_consecutive(return_counts=True)[1].tolist()
    runs, start, stop = [], 0, 0
    for count in counts:
        if stop > start and stop + count - start > block_rows:
            runs.append(slice(start, stop))
            start = stop
        stop += count
    return [*runs, slice(start, stop)]

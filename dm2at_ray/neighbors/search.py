"""The public search: k nearest neighbours of every sample of a pool under D, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors.audit import true_neighbors
from dm2at_ray.neighbors.block import TILE, Block
from dm2at_ray.neighbors.cells import probes_for_recall
from dm2at_ray.neighbors.inputs import as_features, as_sample_ids, whole_number
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.normalizer import Normalize
from dm2at_ray.neighbors.plan import Plan, Search, reference_rows
from dm2at_ray.neighbors.result import Neighbors, merge
from dm2at_ray.neighbors.routing import Shard, cut_cells, search_shards
from dm2at_ray.neighbors.sampling import Draw, lottery, winners

PILOT_QUERIES = 500

BLOCK_ROWS = 1 << 17
BLOCK_ROWS_GPU = 1 << 18
"""A GPU is some 10 ms into a pair of blocks before its launches have grown to their full length."""


def search(
    features: ArrayLike | Tensor,
    k: int,
    *,
    sample_ids: ArrayLike | Tensor | None = None,
    engine: str = "auto",
    l1_weight: float = 1.0,
    l2_weight: float = 1.0,
    normalize: Normalize = "none",
    recall: float = 0.99,
    block_rows: int | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> Neighbors:
    """Find the k nearest neighbours of every sample of a pool under D, in this process.

    D(x, x') = l1_weight * |h(x) - h(x')|_1 + l2_weight * |h(x) - h(x')|_2: Step 2 of Algorithm 2
    (Song et al., Entropy 27(11):1159, 2025). A sample is never its own neighbour; a duplicate of it can be.

    Memory beside `features`: two blocks as float32 with their 8-bit codes, 12 k bytes a row for the result,
    and for the routed engine 4 bytes for each cell that a row looks into.

    Args:
        features: (N, D) real numbers of any type, on any device: a tensor, a NumPy array (one mapped from a
            file stays there), or what NumPy makes an array of. Cast to float32 a block at a time.
        k: neighbours to find, 1 <= k < N.
        sample_ids: (N,) distinct integers from 0 on, in any order; 0 .. N-1 if left out.
        engine: `exact` finds all; `shortlist` measures candidates by L2 (recall above 0.999 on features of
            convolutional nets); `routed` looks into the nearest cells of a k-means, as many as `recall`
            takes; `auto` is exact while that is a matter of minutes.
        l1_weight: weight of the L1 norm in D.
        l2_weight: weight of the L2 norm in D.
        normalize: `l2` divides every row by its Euclidean norm first, `standardize` brings each dimension to
            mean 0 and standard deviation 1 (by a sample of 65,536 rows), `none` does neither.
        recall: what `routed` aims at, on a pilot sample of the pool.
        block_rows: rows held as float32 at a time; changes neither ids nor distances. 131,072 if left out, on
            a GPU twice as many.
        threads: CPU threads, torch's number if left out; changes neither ids nor distances.
        seed: of the samples that `routed` and `shortlist` are steered by.

    Returns:
        Neighbors in the order of the rows of `features`.

    Raises:
        ConfigError: k is not in 1 .. N-1, ids repeat, or an option is unknown or out of range.
        PoolError: features are NaN, infinite or out of the range of float32; the message names sample ids.
        ValueError: features are no (N, D) array of real numbers, or sample ids no (N,) integers.

    Examples:
        >>> found = search(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), k=1)
        >>> found.ids.flatten().tolist(), found.distances.flatten().tolist()
        ([2, 2, 0], [2.0, 10.242640495300293, 2.0])
    """
    x = as_features(features)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"features must be (N, D), not {tuple(x.shape)}")
    n, d = x.shape
    if block_rows is None:
        block_rows = BLOCK_ROWS_GPU if x.is_cuda else BLOCK_ROWS
    k, block_rows, seed = (
        whole_number(*each) for each in (("k", k), ("block_rows", block_rows), ("seed", seed))
    )
    threads = torch.get_num_threads() if threads is None else whole_number("threads", threads)
    if not 1 <= k < n:
        raise ConfigError(
            f"k={k} must be at least 1 and less than the pool's N={n} samples; lower k or widen the pool"
        )
    for name, value in (("block_rows", block_rows), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    asked = Search(k, engine, Metric(l1_weight, l2_weight), normalize, recall)
    asked = replace(asked, engine=asked.chosen_engine(n, d, x.device.type))
    ids, order = _sorted_ids(sample_ids, n, x.device)
    pool = _Pool(x, ids, order, block_rows, seed, threads)
    plan = pool.plan(asked)
    found = _search_routed(pool, plan) if plan.cells is not None else _search_all(pool, plan)
    if order is None:
        return found
    back = order.argsort()
    return Neighbors(found.ids[back], found.distances[back])


@dataclass(frozen=True, eq=False)
class _Pool:
    """The rows of a pool in the order of their ids, read a block at a time."""

    features: Tensor
    ids: Tensor
    order: Tensor | None
    block_rows: int
    seed: int
    threads: int

    def __len__(self) -> int:
        return len(self.ids)

    def runs(self) -> list[slice]:
        step = -(-self.block_rows // TILE) * TILE
        return [slice(at, min(at + step, len(self))) for at in range(0, len(self), step)]

    def rows(self, at: slice | Tensor) -> tuple[Tensor, Tensor]:
        return self.ids[at], self.features[at] if self.order is None else self.features[self.order[at]]

    def drawn(self, draw: Draw, count: int) -> Tensor:
        """Places (count,) of rows drawn by their ids."""
        ids = self.ids.cpu().numpy()
        if count >= len(ids):
            return torch.arange(len(ids))
        return torch.from_numpy(winners(lottery(self.seed, 0, ids)[:, draw], ids, count))

    def plan(self, asked: Search) -> Plan:
        at = self.drawn(Draw.REFERENCE, reference_rows(asked.engine, len(self)))
        ids, sample = self.rows(at)
        plan = Plan.fit(asked, ids.cpu().numpy(), sample, len(self))
        if plan.cells is None:
            return plan
        queries = plan.block(*self.rows(self.drawn(Draw.PILOT, PILOT_QUERIES)))
        truth = true_neighbors(queries, self.blocks(plan), asked.k, asked.metric)
        near = plan.block(*self.rows(torch.searchsorted(self.ids, truth.ids.flatten()))).features
        near = near.view(len(queries), asked.k, -1)
        return replace(plan, probe_count=probes_for_recall(plan.cells, queries.features, near, asked.recall))

    def blocks(self, plan: Plan) -> Iterator[Block]:
        for run in self.runs():
            yield plan.block(*self.rows(run))


def _search_all(pool: _Pool, plan: Plan) -> Neighbors:
    """Search every pair of blocks."""
    runs = pool.runs()
    guides = [plan.guide(block) for block in pool.blocks(plan)]

    def load(number: int) -> object:
        return plan.encode(plan.block(*pool.rows(runs[number])), guides[number])

    best = _search_pairs(len(runs), load, lambda a, b: plan.search_pair(a, b, pool.threads), plan.search.k)
    return _joined(best)


def _search_routed(pool: _Pool, plan: Plan) -> Neighbors:
    """Bring the rows into the order of their cells, and search every pair of shards of them."""
    assert plan.cells is not None
    probes = np.concatenate(
        [
            plan.cells.probes(torch.arange(run.start, run.stop), block.features, plan.probe_count)
            .cpu()
            .numpy()
            for run, block in zip(pool.runs(), pool.blocks(plan), strict=True)
        ]
    )
    by_cell = np.argsort(probes[:, 0], kind="stable")
    cuts = cut_cells(np.bincount(probes[:, 0], minlength=len(plan.cells)), pool.block_rows)
    shards = np.split(by_cell, np.searchsorted(probes[by_cell, 0], cuts[1:-1]))

    def load(number: int) -> Shard:
        at = torch.from_numpy(shards[number])
        block = plan.block(*pool.rows(at.to(pool.features.device)))
        return Shard(plan.encode(block, plan.guide(block)), probes[shards[number]])

    best = _search_pairs(
        len(shards), load, lambda a, b: search_shards(plan, a, b, pool.threads), plan.search.k
    )
    found = _joined(best)
    back = torch.from_numpy(np.argsort(by_cell)).to(found.ids.device)
    return Neighbors(found.ids[back], found.distances[back])


def _search_pairs(
    count: int,
    load: Callable[[int], object],
    pair: Callable[..., tuple[Neighbors, Neighbors]],
    k: int,
) -> list[Neighbors]:
    """Search all pairs of `count` parts of the pool, two of them in memory at a time."""
    best: list[Neighbors | None] = [None] * count
    for p in range(count):
        a = load(p)
        for q in range(p, count):
            of_a, of_b = pair(a, a if q == p else load(q))
            best[p] = _with(best[p], of_a, k)
            if q != p:
                best[q] = _with(best[q], of_b, k)
    return [part for part in best if part is not None]


def _with(best: Neighbors | None, part: Neighbors, k: int) -> Neighbors:
    return part if best is None else merge([best, part], k)


def _joined(parts: list[Neighbors]) -> Neighbors:
    return Neighbors(torch.cat([part.ids for part in parts]), torch.cat([part.distances for part in parts]))


def _sorted_ids(
    sample_ids: ArrayLike | Tensor | None, n: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the ids in ascending order, and the rows they stand at where these are not in that order."""
    if sample_ids is None:
        return torch.arange(n, device=device), None
    ids = as_sample_ids(sample_ids).to(device)
    if ids.shape != (n,):
        raise ValueError(f"sample_ids must be ({n},), not {tuple(ids.shape)}")
    sorted, order = ids.sort()
    if int(sorted[0]) < 0:
        raise ConfigError(f"sample id {int(sorted[0])} is negative; ids must be at least 0")
    repeated = sorted[1:] == sorted[:-1]
    if bool(repeated.any()):
        raise ConfigError(
            f"sample id {int(sorted[1:][repeated][0])} stands more than once; ids must be distinct"
        )
    return sorted, None if torch.equal(sorted, ids) else order

"""Step 2 of Algorithm 2: the k nearest neighbours of every unlabeled sample, over pairs of blocks.

D is symmetric, so a pair of blocks is searched once and both sides take their candidates from it. The
partial results of a block are merged by a tree of tasks; the driver holds references, and of the audit's
queries what was found. Each run measures its own recall on random queries that are searched by no engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.config_sections import NeighborsConfig
from dm2at_ray.neighbors import Metric, Neighbors, Search
from dm2at_ray.neighbors.audit import Recall, recall_of
from dm2at_ray.neighbors.plan import reference_rows
from dm2at_ray.neighbors.routing import cut_cells
from dm2at_ray.neighbors.sampling import Draw
from dm2at_ray.neighbors.search import PILOT_QUERIES
from dm2at_ray.stages import neighbor_tasks as tasks
from dm2at_ray.stages.batches import IdRange
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.embed import FeatureBlocks
from dm2at_ray.store import RoundDirectory

MERGE_WIDTH = 4
"""Partial results that one task merges. One fewer of each row wait in the object store meanwhile."""
MOST_WIDENINGS = 4
"""Times that `auto` repeats a search with more candidates before it searches exactly."""

SUMMARY = "neighbors/search.json"


def neighbors_part(block: IdRange) -> str:
    """Name of the file with a block's neighbours, below the round's folder."""
    return f"neighbors/ids-{block.begin:012d}-{block.end:012d}.parquet"


def has_neighbors(context: StageContext, blocks: list[IdRange]) -> bool:
    """Whether an earlier attempt at the round has found all neighbours already."""
    files = context.round.files
    return files.exists(SUMMARY) and all(files.exists(neighbors_part(block)) for block in blocks)


def read_neighbors(round_: RoundDirectory, block: IdRange) -> pa.Table:
    """Columns sample_id, neighbor_ids, neighbor_distances of one block's unlabeled samples, ids ascending."""
    return round_.files.read_table(neighbors_part(block))


def search_summary(round_: RoundDirectory) -> dict[str, Any] | None:
    """What `find_neighbors` has told of the round's search, None where there was none."""
    return round_.files.read_json(SUMMARY) if round_.files.exists(SUMMARY) else None


def find_neighbors(
    context: StageContext, config: NeighborsConfig, features: FeatureBlocks, k: int, progress: Progress
) -> dict[str, Any]:
    """Search the pool, audit the recall, and write each block's neighbours to the round's folder.

    Args:
        context: The round.
        config: Weights, normalization, engine, recall wanted.
        features: What `embed` left in the object store.
        k: Neighbours of each sample, less than the number of samples.
        progress: Told of every pair of blocks, as a share of the samples.

    Returns:
        The engine, and `recall`, its 95 % interval and `audit_queries` where there was an audit.
    """
    metric = Metric(config.l1_weight, config.l2_weight)
    asked = Search(k, config.engine, metric, config.normalize, config.recall_target)
    engine = asked.chosen_engine(features.rows, features.dim, context.device.type)
    search = _Search(context, features, replace(asked, engine=engine), progress)
    audit = search.audit(config.audit_queries) if config.audit_queries else None
    widenings = 0
    while True:
        found = search.run()
        recall = audit.recall(found) if audit else None
        enough = recall is None or recall.recall >= config.recall_target or search.engine == "exact"
        if enough or config.engine != "auto":
            break
        widenings += 1
        if widenings > MOST_WIDENINGS:
            search = _Search(context, features, replace(asked, engine="exact"), progress)
        else:
            search.widen()
    write = tasks.write.options(num_cpus=context.compute.cpus_per_actor)
    ray.get(
        [
            write.remote(context.round, neighbors_part(block), table, part)
            for table, block, part in zip(features.refs, features.blocks, found, strict=True)
        ]
    )
    summary = {"engine": search.engine, "k": k, "widenings": widenings, **search.facts, **_told(recall)}
    context.round.files.write_json(SUMMARY, summary)
    return summary


def _told(recall: Recall | None) -> dict[str, Any]:
    if recall is None:
        return {}
    interval = [recall.low, recall.high]
    return {"recall": recall.recall, "recall_interval": interval, "audit_queries": recall.queries}


class _Search:
    """The search of one pool by one engine; all it holds are references."""

    def __init__(
        self, context: StageContext, features: FeatureBlocks, asked: Search, progress: Progress
    ) -> None:
        self.engine = asked.engine
        self.facts: dict[str, Any] = {}
        self._context = context
        self._features = features
        self._asked = asked
        self._progress = progress
        cpus, gpus = context.compute.cpus_per_actor, context.compute.gpus_per_actor
        self._on_cpu = {"num_cpus": cpus}
        self._on_device = {"num_cpus": cpus, "num_gpus": gpus}
        self._sides = list(zip(features.refs, features.blocks, strict=True))
        sample = self._drawn(Draw.REFERENCE, reference_rows(asked.engine, features.rows))
        fit = tasks.fit_plan.options(**self._on_cpu)
        self._plan, self._for_pairs = fit.remote(context, asked, sample, features.rows)
        if self.engine == "routed":
            self._choose_probes()

    def audit(self, queries: int) -> _Audit:
        """Search random queries by no engine."""
        drawn = self._drawn(Draw.AUDIT, queries)
        return _Audit(drawn, self._truth(drawn), self._sides, self._on_cpu)

    def widen(self) -> None:
        """Take more candidates from now on."""
        self._plan, self._for_pairs, probes = tasks.widen.options(**self._on_cpu).remote(self._plan)
        if self.engine == "routed":
            self.facts["probes"] = ray.get(probes)

    def run(self) -> list[ObjectRef]:
        """Search; return for each block what was found."""
        return self._search_shards() if self.engine == "routed" else self._search_blocks()

    def _search_blocks(self) -> list[ObjectRef]:
        guides: list[ObjectRef | None] = [None] * len(self._sides)
        if self.engine == "shortlist" or self._context.device.type == "cuda":
            guide = tasks.guide.options(**self._on_device)
            guides = [guide.remote(self._context, self._plan, *side) for side in self._sides]
        search = tasks.search_blocks.options(**self._on_device)
        sides = [(*side, guide) for side, guide in zip(self._sides, guides, strict=True)]

        def pair(i: int, j: int) -> tuple[ObjectRef, ObjectRef]:
            return search.remote(self._context, self._for_pairs, *sides[i], *sides[j])

        pairs = list(itertools.combinations_with_replacement(range(len(sides)), 2))
        return self._search_pairs(len(sides), pairs, pair)

    def _search_shards(self) -> list[ObjectRef]:
        """Bring the rows into the order of their cells, search the pairs of shards, and bring them back."""
        route = tasks.route.options(**self._on_device)
        routed = [route.remote(self._context, self._plan, *side) for side in self._sides]
        sizes: np.ndarray | int = 0
        for _, counts in routed:
            sizes = sizes + ray.get(counts)
        assert isinstance(sizes, np.ndarray)
        cuts = cut_cells(sizes, self._context.compute.block_rows)
        count = len(cuts) - 1
        split = tasks.split.options(num_returns=1 + count, **self._on_cpu)
        parts = [
            split.remote(*side, probes, cuts) for side, (probes, _) in zip(self._sides, routed, strict=True)
        ]
        looks_into = np.logical_or.reduce(ray.get([part[0] for part in parts]))
        assemble = tasks.assemble.options(**self._on_cpu)
        shards = [assemble.remote(*(part[1 + shard] for part in parts)) for shard in range(count)]
        del parts, routed
        search = tasks.search_shard_pair.options(**self._on_device)

        def pair(i: int, j: int) -> tuple[ObjectRef, ObjectRef]:
            return search.remote(self._context, self._for_pairs, shards[i], shards[j], i == j)

        all_pairs = itertools.combinations_with_replacement(range(count), 2)
        pairs = [(i, j) for i, j in all_pairs if i == j or looks_into[i, j] or looks_into[j, i]]
        found = self._search_pairs(count, pairs, pair)
        scatter = tasks.scatter.options(num_returns=1 + len(self._sides), **self._on_cpu)
        blocks = list(self._features.blocks)
        by_block = [
            scatter.remote(shard, part, blocks)[1:] for shard, part in zip(shards, found, strict=True)
        ]
        gather = tasks.gather.options(**self._on_cpu)
        return [gather.remote(*parts) for parts in zip(*by_block, strict=True)]

    def _search_pairs(
        self,
        count: int,
        pairs: Sequence[tuple[int, int]],
        search: Callable[[int, int], tuple[ObjectRef, ObjectRef]],
    ) -> list[ObjectRef]:
        """Search pairs of `count` parts; return what was found for the rows of each."""
        trees = [_MergeTree(self._asked.k, self._on_cpu) for _ in range(count)]
        to_do = iter(pairs)
        # Few pairs at a time, because each leaves two partial results in the object store.
        limit = 2 * self._context.compute.actors
        running: dict[ObjectRef, tuple[int, int, ObjectRef]] = {}
        for done in range(1, len(pairs) + 1):
            for i, j in itertools.islice(to_do, limit - len(running)):
                of_i, of_j = search(i, j)
                running[of_i] = (i, j, of_j)
            (of_i, *_), _ = ray.wait(list(running))
            i, j, of_j = running.pop(of_i)
            trees[i].add(of_i)
            if j != i:
                trees[j].add(of_j)
            self._progress(self._features.rows * done // len(pairs), self._features.rows)
        return [tree.root() for tree in trees]

    def _drawn(self, what: Draw, count: int) -> ObjectRef:
        """Rows drawn from the pool by their ids."""
        seed, round_index = self._context.seed, self._context.round_index
        draw = tasks.draw.options(**self._on_cpu)
        share = count / self._features.rows
        drawn = [draw.remote(seed, round_index, what, share, *side) for side in self._sides]
        return tasks.select_drawn.options(**self._on_cpu).remote(count, *drawn)

    def _truth(self, queries: ObjectRef) -> ObjectRef:
        """The true k nearest of some rows."""
        search = tasks.search_truth.options(**self._on_device)
        tree = _MergeTree(self._asked.k, self._on_cpu)
        for side in self._sides:
            tree.add(search.remote(self._context, self._for_pairs, queries, *side))
        return tree.root()

    def _choose_probes(self) -> None:
        queries = self._drawn(Draw.PILOT, PILOT_QUERIES)
        truth = self._truth(queries)
        rows_of = tasks.rows_of.options(**self._on_cpu)
        near = [rows_of.remote(truth, *side) for side in self._sides]
        choose = tasks.choose_probes.options(**self._on_cpu)
        self._plan, self._for_pairs, probes = choose.remote(self._context, self._plan, queries, truth, *near)
        self.facts["probes"] = ray.get(probes)


@dataclass(frozen=True)
class _Audit:
    """Queries whose true neighbours are known."""

    queries: ObjectRef
    truth: ObjectRef
    sides: list[tuple[ObjectRef, IdRange]]
    options: dict[str, Any]

    def recall(self, found: Sequence[ObjectRef]) -> Recall:
        """Compare what was found for each block with the truth."""
        found_for = tasks.found_for.options(**self.options)
        refs = [
            found_for.remote(self.queries, *side, part) for side, part in zip(self.sides, found, strict=True)
        ]
        truth = _neighbors(ray.get(self.truth))
        merged = Neighbors(torch.empty_like(truth.ids), torch.empty_like(truth.distances))
        for at, part in ray.get(refs):
            places, of_part = torch.from_numpy(at.copy()), _neighbors(part)
            merged.ids[places], merged.distances[places] = of_part.ids, of_part.distances
        return recall_of(merged, truth)


def _neighbors(found: tasks.Found) -> Neighbors:
    # Copies, because what comes from the object store is read-only.
    return Neighbors(*(torch.from_numpy(column.copy()) for column in found))


class _MergeTree:
    """Partial results of the same rows, merged by tasks as they come in."""

    def __init__(self, k: int, options: dict[str, Any]) -> None:
        self._k = k
        self._merge = tasks.merge_found.options(**options)
        self._partials: list[ObjectRef] = []

    def add(self, partial: ObjectRef) -> None:
        self._partials.append(partial)
        if len(self._partials) == MERGE_WIDTH:
            self._partials = [self.root()]

    def root(self) -> ObjectRef:
        """What all that was added comes to."""
        if len(self._partials) == 1:
            return self._partials[0]
        return self._merge.remote(self._k, *self._partials)

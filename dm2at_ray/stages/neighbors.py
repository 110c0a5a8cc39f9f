"""Step 2 of Algorithm 2: the k nearest neighbours of every unlabeled sample, over pairs of blocks.

D is symmetric, so a pair of blocks is searched once and both sides take their candidates from it. The
partial results of a block are merged by a tree of tasks, the last of which writes them to the round's
folder; the driver holds references only. A task holds two blocks of features and their running top-k; one
that dies is run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from dm2at_ray.config_sections import NeighborsConfig
from dm2at_ray.neighbors import Block, Neighbors, choose_engine, merge, search_pair
from dm2at_ray.stages.batches import IdRange
from dm2at_ray.stages.context import Progress, StageContext
from dm2at_ray.stages.embed import FeatureBlocks, features_of
from dm2at_ray.store import RoundDirectory

MERGE_WIDTH = 8
"""Partial results that one task merges."""

Partial = tuple[np.ndarray, np.ndarray]
"""Neighbour ids (n, k) int64 and distances (n, k) float32 of one block's rows."""


def neighbors_part(block: IdRange) -> str:
    """Name of the file with a block's neighbours, below the round's folder."""
    return f"neighbors/ids-{block.begin:012d}-{block.end:012d}.parquet"


def has_neighbors(context: StageContext, blocks: list[IdRange]) -> bool:
    """Whether an earlier attempt at the round has found all neighbours already."""
    return all(context.round.files.exists(neighbors_part(block)) for block in blocks)


def find_neighbors(
    context: StageContext, config: NeighborsConfig, features: FeatureBlocks, k: int, progress: Progress
) -> None:
    """Search all pairs of blocks and write each block's neighbours to the round's folder.

    Args:
        context: The round.
        config: Weights, normalization and engine.
        features: What `embed` left in the object store.
        k: Neighbours of each sample, less than the number of samples.
        progress: Told of every pair, as a share of the samples.
    """
    engine: str = config.engine
    if engine == "auto":
        engine = choose_engine(features.rows, features.dim, k)
    options = {"engine": engine, "l1_weight": config.l1_weight, "l2_weight": config.l2_weight}
    cpus = context.compute.cpus_per_actor
    search = _search.options(num_cpus=cpus, num_gpus=context.compute.gpus_per_actor, num_returns=2)
    sides = list(zip(features.refs, features.blocks, strict=True))
    trees = [_MergeTree(k, cpus) for _ in sides]
    pairs = list(itertools.combinations_with_replacement(range(len(sides)), 2))
    to_do = iter(pairs)
    # Few pairs at a time, because each leaves two partial results in the object store.
    limit = 2 * context.compute.actors
    running: dict[ObjectRef, tuple[int, int, ObjectRef]] = {}
    for done in range(1, len(pairs) + 1):
        for i, j in itertools.islice(to_do, limit - len(running)):
            of_i, of_j = search.remote(context, k, config.normalize, options, *sides[i], *sides[j])
            running[of_i] = (i, j, of_j)
        (of_i, *_), _ = ray.wait(list(running))
        i, j, of_j = running.pop(of_i)
        trees[i].add(of_i)
        if j != i:
            trees[j].add(of_j)
        progress(features.rows * done // len(pairs), features.rows)
    write = _write.options(num_cpus=cpus)
    ray.get(
        [
            write.remote(context.round, k, *side, *tree.partials)
            for side, tree in zip(sides, trees, strict=True)
        ]
    )


class _MergeTree:
    """The partial results of one block, merged by tasks as they come in."""

    def __init__(self, k: int, cpus: float) -> None:
        self._k = k
        self._merge = _merge.options(num_cpus=cpus)
        self.partials: list[ObjectRef] = []

    def add(self, partial: ObjectRef) -> None:
        self.partials.append(partial)
        if len(self.partials) == MERGE_WIDTH:
            self.partials = [self._merge.remote(self._k, *self.partials)]


def read_neighbors(round_: RoundDirectory, block: IdRange) -> pa.Table:
    """Columns sample_id, neighbor_ids, neighbor_distances of one block's unlabeled samples, ids ascending."""
    return round_.files.read_table(neighbors_part(block))


# max_calls=0: a process keeps torch and its CUDA context from one pair to the next.
@ray.remote(max_calls=0, max_retries=-1)
def _search(
    context: StageContext,
    k: int,
    normalize: Any,
    options: dict[str, Any],
    a_table: pa.Table,
    a_range: IdRange,
    b_table: pa.Table,
    b_range: IdRange,
) -> tuple[Partial, Partial | None]:
    context.use_threads()
    a = _block(a_table, a_range, normalize, context.device)
    if a_range == b_range:
        return search_pair(a, a, k, **options)[0].numpy(), None
    b = _block(b_table, b_range, normalize, context.device)
    of_a, of_b = search_pair(a, b, k, **options)
    return of_a.numpy(), of_b.numpy()


@ray.remote(max_retries=-1)
def _merge(k: int, *partials: Partial) -> Partial:
    return _merged(k, partials)


@ray.remote(max_retries=-1)
def _write(round_: RoundDirectory, k: int, table: pa.Table, block: IdRange, *partials: Partial) -> None:
    ids, distances = _merged(k, partials)
    columns = {
        "sample_id": table["sample_id"],
        "neighbor_ids": pa.FixedSizeListArray.from_arrays(ids.reshape(-1), k),
        "neighbor_distances": pa.FixedSizeListArray.from_arrays(distances.reshape(-1), k),
    }
    round_.files.write_table(neighbors_part(block), pa.table(columns))


def _merged(k: int, partials: Sequence[Partial]) -> Partial:
    # Copies, because what comes from the object store is read-only.
    parts = [Neighbors(torch.tensor(ids), torch.tensor(distances)) for ids, distances in partials]
    return merge(parts, k).numpy()


def _block(table: pa.Table, block: IdRange, normalize: Any, device: torch.device) -> Block:
    ids, features = features_of(table, block)
    return Block.make(ids, torch.tensor(features, device=device), normalize)

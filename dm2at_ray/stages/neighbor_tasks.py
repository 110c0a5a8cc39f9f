"""The pieces of the distributed neighbour search: what a Ray task does with one block, one shard or two.

A task holds at most two blocks of features with their codes and their running top-k. One that dies is run
again; nothing else is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch

from dm2at_ray.neighbors import Neighbors, Plan, Search, merge
from dm2at_ray.neighbors.audit import true_neighbors
from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.cells import probes_for_recall
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.routing import Shard, search_shards
from dm2at_ray.neighbors.sampling import Draw, lottery, winners
from dm2at_ray.stages.batches import IdRange
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.embed import features_of
from dm2at_ray.store import RoundDirectory

TICKET_MARGIN = 1.1
"""Rows drawn by each block, over the share wanted, so that enough are drawn in all."""


class Rows(NamedTuple):
    """Some rows of the pool: ids (n,) int64 and features (n, D) float16."""

    ids: np.ndarray
    features: np.ndarray


class Found(NamedTuple):
    """Neighbours of some rows: ids (n, k) int64 and distances (n, k) float32."""

    ids: np.ndarray
    distances: np.ndarray


class ShardRows(NamedTuple):
    """Rows of some cells: ids (n,) int64, features (n, D) float16, and the cells to look into (n, P).

    Those are unsigned integers, no wider than the number of cells needs.
    """

    ids: np.ndarray
    features: np.ndarray
    probes: np.ndarray


@ray.remote(max_retries=-1)
def draw(
    seed: int, round_index: int, what: Draw, share: float, table: pa.Table, block: IdRange
) -> tuple[Rows, np.ndarray]:
    """The rows of a block that may be among the pool's drawn ones, and their tickets."""
    ids, features = features_of(table, block)
    tickets = lottery(seed, round_index, ids)[:, what]
    at = np.flatnonzero(tickets < share * TICKET_MARGIN) if share < 1 else np.arange(len(ids))
    return Rows(ids[at], np.ascontiguousarray(features[at])), tickets[at]


@ray.remote(max_retries=-1)
def select_drawn(count: int, *drawn: tuple[Rows, np.ndarray]) -> Rows:
    """The `count` rows with the smallest tickets, in the order of their ids."""
    ids = np.concatenate([rows.ids for rows, _ in drawn])
    tickets = np.concatenate([tickets for _, tickets in drawn])
    at = winners(tickets, ids, count)
    return Rows(ids[at], np.concatenate([rows.features for rows, _ in drawn])[at])


@ray.remote(max_retries=-1, num_returns=2)
def fit_plan(context: StageContext, search: Search, sample: Rows, rows: int) -> tuple[Plan, Plan]:
    """Decide how the pool is searched: the whole plan, and what pairs of blocks need of it."""
    context.begin_piece()
    plan = Plan.fit(search, sample.ids, torch.tensor(sample.features), rows)
    return plan, plan.for_pairs()


@ray.remote(max_retries=-1, num_returns=3)
def choose_probes(
    context: StageContext, plan: Plan, queries: Rows, truth: Found, *near: Rows
) -> tuple[Plan, Plan, int]:
    """Decide how many cells a row looks into, from the true neighbours of a pilot sample."""
    context.begin_piece()
    assert plan.cells is not None
    known = Rows(*(np.concatenate(column) for column in zip(*near, strict=True)))
    order = np.argsort(known.ids)
    at = order[np.searchsorted(known.ids[order], truth.ids.reshape(-1))]
    neighbors = _block(plan, Rows(known.ids[at], known.features[at])).features
    count = probes_for_recall(
        plan.cells, _block(plan, queries).features, neighbors.view(*truth.ids.shape, -1), plan.search.recall
    )
    chosen = replace(plan, probe_count=count)
    return chosen, chosen.for_pairs(), count


@ray.remote(max_retries=-1, num_returns=3)
def widen(plan: Plan) -> tuple[Plan, Plan, int]:
    """The plan with more candidates."""
    wider = plan.widened()
    return wider, wider.for_pairs(), wider.probe_count


@ray.remote(max_retries=-1)
def search_truth(context: StageContext, plan: Plan, queries: Rows, table: pa.Table, block: IdRange) -> Found:
    """The k nearest of the queries in a block, by measuring all pairs."""
    context.begin_piece()
    rows = _block(plan, Rows(*features_of(table, block)), context.device)
    found = true_neighbors(_block(plan, queries, context.device), [rows], plan.search.k, plan.search.metric)
    return Found(*found.numpy())


@ray.remote(max_retries=-1)
def rows_of(truth: Found, table: pa.Table, block: IdRange) -> Rows:
    """The rows of a block that are among the neighbours found."""
    ids, features = features_of(table, block)
    at = np.flatnonzero(np.isin(ids, truth.ids))
    return Rows(ids[at], np.ascontiguousarray(features[at]))


@ray.remote(max_retries=-1)
def found_for(queries: Rows, table: pa.Table, block: IdRange, found: Found) -> tuple[np.ndarray, Found]:
    """What a block's search has found for those of the queries that are in it: their places, and that."""
    ids, _ = features_of(table, block)
    here = np.flatnonzero((queries.ids >= block.begin) & (queries.ids < block.end))
    at = np.searchsorted(ids, queries.ids[here])
    return here, Found(found.ids[at], found.distances[at])


@ray.remote(max_calls=0, max_retries=-1)
def guide(context: StageContext, plan: Plan, table: pa.Table, block: IdRange) -> np.ndarray:
    """How far each row of a block looks."""
    context.begin_piece()
    rows = _block(plan, Rows(*features_of(table, block)), context.device)
    return plan.guide(rows).cpu().numpy()


# max_calls=0: a process keeps torch and its CUDA context from one pair to the next.
@ray.remote(max_calls=0, max_retries=-1, num_returns=2)
def search_blocks(
    context: StageContext,
    plan: Plan,
    a_table: pa.Table,
    a_range: IdRange,
    a_guide: np.ndarray | None,
    b_table: pa.Table,
    b_range: IdRange,
    b_guide: np.ndarray | None,
) -> tuple[Found, Found | None]:
    """Search a pair of blocks, for both sides; or a block in itself."""
    context.begin_piece()

    def encoded(table: pa.Table, block: IdRange, guide: np.ndarray | None) -> Encoded:
        rows = _block(plan, Rows(*features_of(table, block)), context.device)
        return plan.encode(rows, plan.guide(rows) if guide is None else torch.tensor(guide))

    a = encoded(a_table, a_range, a_guide)
    if a_range == b_range:
        return Found(*plan.search_pair(a, a, context.threads)[0].numpy()), None
    of_a, of_b = plan.search_pair(a, encoded(b_table, b_range, b_guide), context.threads)
    return Found(*of_a.numpy()), Found(*of_b.numpy())


@ray.remote(max_calls=0, max_retries=-1, num_returns=2)
def route(
    context: StageContext, plan: Plan, table: pa.Table, block: IdRange
) -> tuple[np.ndarray, np.ndarray]:
    """The cells that each row of a block looks into, and how many rows are of each cell."""
    context.begin_piece()
    assert plan.cells is not None
    rows = _block(plan, Rows(*features_of(table, block)), context.device)
    probes = plan.cells.to(context.device).probes(rows.sample_ids, rows.features, plan.probe_count)
    in_host = probes.cpu().numpy()
    sizes = np.bincount(in_host[:, 0], minlength=len(plan.cells))
    # With a hundred cells a row they are most of what the search has in the object store.
    return in_host.astype(np.min_scalar_type(len(plan.cells) - 1)), sizes


@ray.remote(max_retries=-1)
def split(
    table: pa.Table, block: IdRange, probes: np.ndarray, cuts: np.ndarray
) -> tuple[np.ndarray | ShardRows, ...]:
    """A block's rows by shard, after which shards (S, S) its rows of each shard look into."""
    ids, features = features_of(table, block)
    shards = len(cuts) - 1
    home = np.searchsorted(cuts, probes[:, 0], side="right") - 1
    looks_into = np.zeros((shards, shards), bool)
    looks_into[home[:, None], np.searchsorted(cuts, probes, side="right") - 1] = True
    parts = []
    for shard in range(shards):
        at = np.flatnonzero(home == shard)
        parts.append(ShardRows(ids[at], np.ascontiguousarray(features[at]), probes[at]))
    return (looks_into, *parts)


@ray.remote(max_retries=-1)
def assemble(*parts: ShardRows) -> ShardRows:
    """One shard of the whole pool, in the order of cells and ids."""
    ids = np.concatenate([part.ids for part in parts])
    probes = np.concatenate([part.probes for part in parts])
    order = np.lexsort((ids, probes[:, 0]))
    features = np.concatenate([part.features for part in parts])
    return ShardRows(ids[order], features[order], probes[order])


@ray.remote(max_calls=0, max_retries=-1, num_returns=2)
def search_shard_pair(
    context: StageContext, plan: Plan, a: ShardRows, b: ShardRows, same: bool
) -> tuple[Found, Found | None]:
    """Search a pair of shards, for both sides; or a shard in itself."""
    context.begin_piece()

    def shard(rows: ShardRows) -> Shard:
        block = _block(plan, Rows(rows.ids, rows.features), context.device)
        return Shard(plan.encode(block, plan.guide(block)), rows.probes)

    shard_a = shard(a)
    of_a, of_b = search_shards(plan, shard_a, shard_a if same else shard(b), context.threads)
    return Found(*of_a.numpy()), None if same else Found(*of_b.numpy())


@ray.remote(max_retries=-1)
def scatter(shard: ShardRows, found: Found, blocks: Sequence[IdRange]) -> tuple[object, ...]:
    """What was found for a shard's rows by block, after a None."""
    parts = []
    for block in blocks:
        at = np.flatnonzero((shard.ids >= block.begin) & (shard.ids < block.end))
        parts.append((shard.ids[at], Found(found.ids[at], found.distances[at])))
    return (None, *parts)


@ray.remote(max_retries=-1)
def gather(*parts: tuple[np.ndarray, Found]) -> Found:
    """What was found for a block's rows in all shards, in the order of their ids."""
    order = np.argsort(np.concatenate([ids for ids, _ in parts]))
    return Found(
        np.concatenate([found.ids for _, found in parts])[order],
        np.concatenate([found.distances for _, found in parts])[order],
    )


@ray.remote(max_retries=-1)
def merge_found(k: int, *partials: Found) -> Found:
    """The k nearest of several partial results of the same rows."""
    # Copies, because what comes from the object store is read-only.
    parts = [Neighbors(torch.tensor(ids), torch.tensor(distances)) for ids, distances in partials]
    return Found(*merge(parts, k).numpy())


@ray.remote(max_retries=-1)
def write(round_: RoundDirectory, name: str, table: pa.Table, found: Found) -> None:
    """Write a block's neighbours to the round's folder."""
    k = found.ids.shape[1]
    columns = {
        "sample_id": table["sample_id"],
        "neighbor_ids": pa.FixedSizeListArray.from_arrays(found.ids.reshape(-1), k),
        "neighbor_distances": pa.FixedSizeListArray.from_arrays(found.distances.reshape(-1), k),
    }
    round_.files.write_table(name, pa.table(columns))


def _block(plan: Plan, rows: Rows, device: torch.device | None = None) -> Block:
    return plan.block(rows.ids.copy(), torch.tensor(rows.features, device=device))

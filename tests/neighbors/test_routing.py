from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import merge
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.plan import Plan, Search
from dm2at_ray.neighbors.result import Neighbors
from dm2at_ray.neighbors.routing import Shard, cut_cells, search_shards


@pytest.mark.parametrize(
    ("sizes", "rows", "shards"),
    [
        ([3, 4, 0, 9, 1], 7, [7, 9, 1]),
        ([3, 4, 0, 9, 1], 8, [7, 9, 1]),
        ([3, 4, 0, 9, 1], 100, [17]),
        ([3, 4, 0, 9, 1], 1, [3, 4, 9, 1]),
        ([5], 2, [5]),
        ([0, 0, 3], 2, [3]),
    ],
)
def test_cut_cells__by_hand(sizes, rows, shards):
    cuts = cut_cells(np.array(sizes), rows).tolist()
    assert [sum(sizes[p:q]) for p, q in itertools.pairwise(cuts)] == shards


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=20), rows=st.integers(1, 30))
def test_cut_cells__shards_are_full_but_not_over_full(sizes, rows):
    cuts = cut_cells(np.array(sizes), rows).tolist()
    assert (cuts[0], cuts[-1]) == (0, len(sizes))
    assert cuts == sorted(set(cuts))
    shards = [sizes[p:q] for p, q in itertools.pairwise(cuts)]
    for shard in shards:
        # More than so many rows only where they are of a single cell.
        assert sum(shard) <= rows or sum(size > 0 for size in shard) == 1
    for shard, later in itertools.pairwise(shards):
        assert sum(shard) + later[0] > rows


def test_shard__cells_and_where_they_begin():
    probes = np.array([[3, 1], [3, 9], [5, 3], [6, 6]], np.int32)
    shard = Shard([None] * 4, probes)
    assert len(shard) == 4
    assert shard.cells == (3, 6)
    assert shard.bounds().tolist() == [0, 2, 2, 3, 4]


class Pool:
    """Rows in cells of a map drawn at random, each looking into its own cell and some more."""

    def __init__(self, seed, rows, dims, cells, looks, k, integers):
        random = np.random.default_rng(seed)
        self.k = k
        x = random.integers(0, 4, (rows, dims)) if integers else random.standard_normal((rows, dims))
        self.features = x.astype(np.float32)
        self.ids = random.permutation(rows) * 3
        home = np.sort(random.integers(0, cells, rows))
        others = [
            random.permutation(np.delete(np.arange(cells), own))[: min(looks, cells) - 1] for own in home
        ]
        self.probes = np.array([[own, *more] for own, more in zip(home, others, strict=True)], np.int32)
        # D as a whole number where the features are: ties are ties.
        search = Search(k, "routed", Metric(1.0, 0.0 if integers else 1.0))
        self.plan = Plan.fit(search, np.sort(self.ids), self.features[np.argsort(self.ids)], rows)

    @property
    def d(self):
        x = self.features.astype(np.float64)
        return cdist(x, x, "cityblock") + self.plan.search.metric.l2_weight * cdist(x, x)

    @property
    def allowed(self):
        """(N, N): either row looks into the other's cell."""
        looks = (self.probes[:, None, :] == self.probes[None, :, :1]).any(axis=2)
        allowed = looks | looks.T
        np.fill_diagonal(allowed, False)
        return allowed

    def shards(self, cuts):
        edges = [0, *np.searchsorted(self.probes[:, 0], sorted(cuts)).tolist(), len(self.ids)]
        for p, q in itertools.pairwise(edges):
            block = self.plan.block(self.ids[p:q], self.features[p:q])
            yield Shard(self.plan.encode(block, self.plan.guide(block)), self.probes[p:q])

    def search(self, cuts, threads):
        shards = list(self.shards(cuts))
        parts = [[] for _ in shards]
        for p, a in enumerate(shards):
            parts[p].append(search_shards(self.plan, a, a, threads)[0])
            for q in range(p):
                for at, found in zip((p, q), search_shards(self.plan, a, shards[q], threads), strict=True):
                    parts[at].append(found)
        found = [merge(part, self.k) for part in parts]
        return Neighbors(torch.cat([f.ids for f in found]), torch.cat([f.distances for f in found]))


pools = {
    "seed": st.integers(0, 2**32 - 1),
    "rows": st.integers(2, 70),
    "dims": st.integers(1, 12),
    "cells": st.integers(1, 12),
    "looks": st.integers(1, 5),
    "k": st.integers(1, 6),
    "cuts": st.sets(st.integers(0, 12), max_size=4),
    "threads": st.integers(1, 3),
}


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=60, deadline=None)
@given(**pools)
def test_search_shards__finds_what_the_probes_allow_and_ties_by_id(sorted_lists, cuts, threads, **drawn):
    pool = Pool(**drawn, integers=True)
    ids, distances = sorted_lists(pool.d, pool.allowed, pool.ids, pool.k)
    found = pool.search(cuts, threads)
    assert found.distances.tolist() == distances
    assert found.ids.tolist() == ids


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=30, deadline=None)
@given(**pools)
def test_search_shards__any_features(sorted_lists, cuts, threads, **drawn):
    pool = Pool(**drawn, integers=False)
    ids, distances = sorted_lists(pool.d, pool.allowed, pool.ids, pool.k)
    found = pool.search(cuts, threads)
    np.testing.assert_allclose(found.distances, distances, rtol=3e-6)
    assert found.ids.tolist() == ids


@pytest.mark.usefixtures("each_backend")
def test_search_shards__no_row_looks_into_the_other_shard():
    x = np.array([[0.0], [1.0], [50.0], [52.0]], np.float32)
    plan = Plan.fit(Search(1, "routed"), np.arange(4), x, 4)
    shards = []
    for at, cell in ((slice(0, 2), 0), (slice(2, 4), 1)):
        block = plan.block(np.arange(4)[at], x[at])
        shards.append(Shard(plan.encode(block, plan.guide(block)), np.full((2, 1), cell, np.int32)))
    of_a, of_b = search_shards(plan, *shards)
    assert of_a.ids.tolist() == of_b.ids.tolist() == [[-1], [-1]]
    assert search_shards(plan, shards[0], shards[0])[0].ids.tolist() == [[1], [0]]


@pytest.mark.usefixtures("each_backend")
def test_search_shards__empty_shard_and_one_row():
    x = np.array([[0.0], [1.0], [50.0]], np.float32)
    plan = Plan.fit(Search(2, "routed"), np.arange(3), x, 3)

    def shard(at: slice) -> Shard:
        block = plan.block(np.arange(3)[at], x[at])
        return Shard(plan.encode(block, plan.guide(block)), np.zeros((len(block), 1), np.int32))

    none, one, two = shard(slice(0)), shard(slice(0, 1)), shard(slice(1, 3))
    assert [len(found) for found in search_shards(plan, none, none)] == [0, 0]
    of_none, of_two = search_shards(plan, none, two)
    assert of_none.ids.shape == (0, 2)
    assert of_two.ids.tolist() == [[-1, -1], [-1, -1]]
    assert search_shards(plan, one, one)[0].ids.tolist() == [[-1, -1]]
    of_one, of_two = search_shards(plan, one, two)
    assert of_one.ids.tolist() == [[1, 2]]
    assert of_two.ids.tolist() == [[0, -1], [0, -1]]

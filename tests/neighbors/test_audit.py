from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from dm2at_ray.neighbors import audit
from dm2at_ray.neighbors.audit import recall_of, true_neighbors
from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.result import Neighbors

INF = float("inf")


def neighbors(*rows: list[tuple[int, float]]) -> Neighbors:
    """Build a result from rows of (id, distance)."""
    pairs = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1, 2)
    return Neighbors(pairs[..., 0].to(torch.int64), pairs[..., 1].to(torch.float32))


@pytest.mark.parametrize("rows_at_once", [7, 8192])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0)])
def test_true_neighbors__are_scipys(reference, monkeypatch, rows_at_once, weights):
    monkeypatch.setattr(audit, "ROWS_AT_ONCE", rows_at_once)
    x = np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32)
    ids = np.random.default_rng(1).permutation(60) * 3
    queries = Block.make(ids[5:15], x[5:15])
    blocks = [Block.make(ids[p:q], x[p:q]) for p, q in ((0, 10), (10, 11), (11, 11), (11, 60))]
    found = true_neighbors(queries, iter(blocks), 6, Metric(*weights))
    d = reference(x, *weights)[5:15]
    nearest = d.argsort(axis=1)[:, :6]
    np.testing.assert_array_equal(found.ids, ids[nearest])
    np.testing.assert_allclose(found.distances, np.take_along_axis(d, nearest, axis=1), rtol=2e-6)


def test_true_neighbors__never_itself_but_its_duplicate():
    block = Block.make(np.array([4, 8, 9]), np.array([[1.0], [1.0], [3.0]]))
    found = true_neighbors(block, [block], 1, Metric(1.0, 0.0))
    assert found.ids[:2].tolist() == [[8], [4]]
    assert found.distances.tolist() == [[0], [0], [2]]


def test_true_neighbors__fewer_than_k():
    block = Block.make(np.array([4, 8]), np.array([[1.0], [3.0]]))
    found = true_neighbors(block, [block], 3, Metric(1.0, 0.0))
    assert found.ids.tolist() == [[8, -1, -1], [4, -1, -1]]
    assert found.distances.tolist() == [[2, INF, INF], [2, INF, INF]]


def test_recall_of__is_the_mean_of_the_queries_shares():
    truth = neighbors([(1, 1.0), (2, 2.0)], [(1, 1.0), (3, 5.0)], [(2, 3.0), (3, 4.0)])
    found = neighbors([(1, 1.0), (2, 2.0)], [(1, 1.0), (9, 6.0)], [(8, 7.0), (9, 8.0)])
    recall = recall_of(found, truth)
    assert recall.recall == pytest.approx((1 + 0.5 + 0) / 3)
    assert recall.queries == 3


def test_recall_of__missing_are_not_found():
    truth = neighbors([(1, 1.0), (2, 2.0)])
    assert recall_of(neighbors([(1, 1.0), (-1, INF)]), truth).recall == 0.5
    assert recall_of(neighbors([(-1, INF), (-1, INF)]), truth).recall == 0.0


def test_recall_of__where_there_are_fewer_than_k():
    truth = neighbors([(1, 1.0), (-1, INF)])
    assert recall_of(neighbors([(1, 1.0), (-1, INF)]), truth).recall == 1.0
    # Where nothing is left to find, nothing makes up for what is missing.
    assert recall_of(neighbors([(-1, INF), (-1, INF)]), truth).recall == 0.0
    assert recall_of(neighbors([(9, 7.0), (-1, INF)]), truth).recall == 0.0


def test_recall_of__among_equals_any_will_do():
    truth = neighbors([(1, 1.0), (2, 2.0)], [(1, 0.0), (2, 0.0)])
    found = neighbors([(1, 1.0), (7, 2.0)], [(8, 0.0), (9, 0.0)])
    assert recall_of(found, truth).recall == 1.0
    # Another order of summation may move a distance in its last digits, no more.
    assert recall_of(neighbors([(1, 1.0), (7, 2.00001)], [(8, 0.0), (9, 0.0)]), truth).recall == 1.0
    assert recall_of(neighbors([(1, 1.0), (7, 2.0001)], [(8, 0.0), (9, 1e-9)]), truth).recall == 0.5


@pytest.mark.parametrize("queries", [1, 12, 1000])
def test_recall_of__interval_is_scipys_wilson(queries):
    for hits in {0, 1, queries // 2, queries - 1, queries}:
        found = neighbors(*[[(1, 1.0)]] * hits, *[[(2, 9.0)]] * (queries - hits))
        recall = recall_of(found, neighbors(*[[(1, 1.0)]] * queries))
        expected = binomtest(hits, queries).proportion_ci(confidence_level=0.95, method="wilson")
        assert recall.recall == pytest.approx(hits / queries)
        assert recall.low == pytest.approx(expected.low, abs=1e-12)
        assert recall.high == pytest.approx(expected.high, abs=1e-12)


def test_recall_of__counts_queries_as_trials_not_their_neighbours():
    truth = neighbors(*[[(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]] * 10)
    found = neighbors(*[[(1, 1.0), (2, 2.0), (8, 8.0), (9, 9.0)]] * 10)
    expected = binomtest(5, 10).proportion_ci(method="wilson")
    recall = recall_of(found, truth)
    assert (recall.low, recall.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_recall_of__no_queries_say_nothing():
    none = Neighbors(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    recall = recall_of(none, none)
    assert (recall.recall, recall.low, recall.high, recall.queries) == (1.0, 0.0, 1.0, 0)


def test_recall_of__query_without_a_neighbour_misses_none():
    missing = Neighbors(torch.tensor([[-1]]), torch.tensor([[torch.inf]]))
    assert recall_of(missing, missing).recall == 1

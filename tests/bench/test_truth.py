"""The right answers, against SciPy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dm2at_ray.bench import truth as module
from dm2at_ray.bench.truth import Truth, query_order, true_distances

CPU = torch.device("cpu")

Reference = Callable[..., np.ndarray]
LINE = np.array([[0.0], [1.0], [2.0], [4.0], [4.0], [8.0]], dtype=np.float32)
"""On a line D is twice the difference."""


@pytest.mark.parametrize("m", [1, 7, 399])
@pytest.mark.parametrize("columns", [64, 8192])
def test_find__as_scipy(
    features: np.ndarray, reference: Reference, m: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COLUMNS", columns)
    queries = query_order(len(features), seed=0)[:50]
    found = Truth.find(features, queries, m, CPU)
    expected = np.sort(reference(features)[queries], axis=1)[:, :m]
    np.testing.assert_allclose(found.nearest.numpy(), expected, rtol=1e-12)


def test_find__where_float32_cannot_tell_the_order(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far from the origin, 300 rows at nearly one distance: more than are measured again at first."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((1, 4)), 1e4 + rng.random((300, 4)) * 1e-2]).astype(np.float32)
    expected = np.sort(reference(x)[0])[:3]
    found = Truth.find(x, np.array([0]), 3, CPU)
    np.testing.assert_allclose(found.nearest.numpy()[0], expected, rtol=1e-12)
    monkeypatch.setattr(module, "_nearest_in_full", lambda *_: torch.full((3,), -1.0))
    assert (Truth.find(x, np.array([0]), 3, CPU).nearest == -1).all()


def test_recall__of_right_answers_is_one(features: np.ndarray, nearest: Callable[..., np.ndarray]) -> None:
    queries = query_order(len(features), seed=0)[:50]
    found = Truth.find(features, queries, 20, CPU)
    assert found.recall(features, 7, nearest(7)[queries]) == 1
    assert found.recall(features, 7, nearest(7)[queries][:9]) == 1
    assert found.recall(features, 7, nearest(8)[queries][:, 1:]) == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("ids", "right"),
    [
        ([1, 2, 3], 3),
        ([1, 2, 4], 3),  # rows 3 and 4 are the same: either is a third nearest
        ([4, 3, 1], 3),  # the second tie is no farther than the third
        ([1, 2, 5], 2),
        ([1, 1, 1], 1),
        ([0, 1, 2], 2),  # the query itself
        ([1, -1, -1], 1),
        ([1, 2, 6], 2),  # no such row
    ],
)
def test_recall__counts_ties_and_nothing_else(ids: list[int], right: int) -> None:
    found = Truth.find(LINE, np.array([0]), 3, CPU)
    assert found.nearest.tolist() == [[2, 4, 8]]
    assert found.recall(LINE, 3, np.array([ids])) == pytest.approx(right / 3)


def test_true_distances__in_steps(
    features: np.ndarray, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.array([3, 5, 8])
    ids = np.array([[1, 2], [3, 4], [0, 399]])
    expected = np.take_along_axis(reference(features)[queries], ids, axis=1)
    for pairs in (1, 1 << 20):
        monkeypatch.setattr(module, "PAIRS", pairs)
        np.testing.assert_allclose(true_distances(features, queries, ids).numpy(), expected, rtol=1e-12)


def test_query_order__is_a_permutation_of_the_seed() -> None:
    order = query_order(100, seed=1)
    assert sorted(order) == list(range(100))
    assert (order == query_order(100, seed=1)).all()
    assert (order != query_order(100, seed=2)).any()

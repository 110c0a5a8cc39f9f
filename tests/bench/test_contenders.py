"""Engines and peers find what SciPy finds in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dm2at_ray.bench import contenders as module
from dm2at_ray.bench.contenders import PEERS, peers_installed, run_engine, run_peer, without_self
from dm2at_ray.bench.truth import query_order
from dm2at_ray.neighbors import ENGINES

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", PEERS)
def test_run_peer__finds_the_nearest_of_its_metric(
    name: str, features: np.ndarray, nearest: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(PEERS[name].module)
    monkeypatch.setattr(module, "MOST", 150)
    order = query_order(len(features), seed=0)
    answer = run_peer(name, features, 6, order, 170, device=CPU, limit=60)
    expected = nearest(6, l2_weight=1.0 if PEERS[name].metric == "L1 + L2" else 0.0)[order[:170]]
    np.testing.assert_array_equal(answer.ids, expected)
    assert answer.share == 1
    assert answer.seconds > 0


def test_run_peer__stops_at_its_limit_and_scales_its_time(
    features: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which indexing takes 1 s and every 20 rows take 2: 3 steps fit into 6 s of 20 in all."""

    class Slow:
        def __init__(self, features: np.ndarray, k: int, device: torch.device) -> None:
            self.k = k
            monkeypatch.setattr(module.time, "perf_counter", lambda: 1.0)

        def neighbors(self, rows: np.ndarray) -> np.ndarray:
            now = module.time.perf_counter() + 2
            monkeypatch.setattr(module.time, "perf_counter", lambda: now)
            return np.tile(np.arange(1000, 1001 + self.k), (len(rows), 1))

    monkeypatch.setattr(module.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(module, "MOST", 20)
    monkeypatch.setitem(module.PEERS, "slow", module.PeerKind(Slow, "L1 only", "torch", "torch"))
    answer = run_peer("slow", features, 3, np.arange(400), 170, device=CPU, limit=6)
    assert answer.share == 60 / 400
    assert answer.seconds == pytest.approx(1 + 20 * 2)
    assert answer.ids.shape == (60, 3)


@pytest.mark.parametrize("name", ["auto", *ENGINES])
def test_run_engine__answers_for_the_queries(
    name: str, features: np.ndarray, nearest: Callable[..., np.ndarray]
) -> None:
    queries = np.array([7, 3, 399])
    answer = run_engine(name, features, 6, queries, device=CPU, threads=1, seed=0)
    np.testing.assert_array_equal(answer.ids, nearest(6)[queries])
    assert answer.share == 1


def test_without_self__where_duplicates_pushed_it_out() -> None:
    near = np.array([[4, 9, 5], [5, 6, 4], [1, 2, 3]])
    assert without_self(near, np.array([9, 9, 3])).tolist() == [[4, 5], [5, 6], [1, 2]]


def test_peers_installed__needs_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch", "sklearn"}
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name if name in there else None)
    assert peers_installed() == ["cdist", "sklearn-l1"]

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.neighbors.topk import MISSING_KEY, RunningTopK, distances_of, merge_keys, neighbors_of

CPU = torch.device("cpu")
INF = float("inf")


def offer(best: RunningTopK, *found: tuple[int, int, float]) -> None:
    rows, order, distances = zip(*found, strict=True)
    best.offer(torch.tensor(rows), torch.tensor(order), torch.tensor(distances, dtype=torch.float32))


def key(distance: float, order: int) -> int:
    """Pack as the class says: the bits of the distance, then the order."""
    return (int(torch.tensor(distance, dtype=torch.float32).view(torch.int32)) << 32) | order


def test_offer__keeps_the_nearest_of_all_offers():
    best = RunningTopK(2, 2, CPU)
    offer(best, (0, 5, 3.0), (1, 0, 1.0), (0, 6, 1.0), (0, 7, 2.0))
    offer(best, (0, 1, 2.5), (1, 3, 0.0), (0, 2, 1.5))
    assert best.keys.tolist() == [[key(1.0, 6), key(1.5, 2)], [key(0.0, 3), key(1.0, 0)]]
    found = neighbors_of(best.keys, torch.arange(100, 110))
    assert found.ids.tolist() == [[106, 102], [103, 100]]
    assert found.distances.tolist() == [[1.0, 1.5], [0.0, 1.0]]


def test_offer__tie_goes_to_the_smaller_order_whenever_it_came():
    best = RunningTopK(1, 2, CPU)
    offer(best, (0, 8, 1.0), (0, 4, 1.0), (0, 6, 1.0))
    offer(best, (0, 2, 1.0))
    assert neighbors_of(best.keys, torch.arange(10)).ids.tolist() == [[2, 4]]


def test_worst__is_infinite_until_k_were_found():
    best = RunningTopK(2, 2, CPU)
    offer(best, (0, 1, 3.0), (0, 2, 0.5), (1, 1, 1.0))
    assert best.worst(slice(0, 2)).tolist() == [3.0, INF]


def test_distances_of__any_shape():
    keys = torch.tensor([[key(0.0, 9), key(1e-45, 0)], [key(3e38, 2**31 - 2), MISSING_KEY]])
    assert torch.equal(distances_of(keys), torch.tensor([[0.0, 1e-45], [3e38, INF]]))


def test_neighbors_of__missing_have_no_id_but_an_overflowed_distance_has():
    found = neighbors_of(torch.tensor([[key(3.0, 1), key(INF, 0), MISSING_KEY]]), torch.tensor([50, 51]))
    assert found.ids.tolist() == [[51, 50, -1]]
    assert found.distances.tolist() == [[3.0, INF, INF]]


def test_neighbors_of__nothing_to_search_in():
    keys = RunningTopK(2, 1, CPU).keys
    found = neighbors_of(keys, torch.zeros(0, dtype=torch.int64))
    assert found.ids.tolist() == [[-1], [-1]]
    assert found.distances.tolist() == [[INF], [INF]]


@settings(deadline=None)
@given(
    a=st.sets(st.integers(0, 20), max_size=4),
    b=st.sets(st.integers(0, 20), max_size=4),
    k=st.integers(1, 4),
)
def test_merge_keys__is_the_sorted_union(a, b, k):
    def table(keys: set[int]) -> torch.Tensor:
        return torch.tensor([(sorted(keys) + [MISSING_KEY] * k)[:k]])

    kept = set(sorted(a)[:k]) | set(sorted(b)[:k])
    assert torch.equal(merge_keys(table(a), table(b)), table(kept))

from __future__ import annotations

import torch

from dm2at_ray.neighbors.topk import RunningTopK

CPU = torch.device("cpu")


def offer(best: RunningTopK, *found: tuple[int, int, float]) -> None:
    rows, positions, distances = zip(*found, strict=True)
    best.offer(torch.tensor(rows), torch.tensor(positions), torch.tensor(distances, dtype=torch.float32))


def test_offer__keeps_the_nearest_of_all_offers():
    best = RunningTopK(2, 2, CPU)
    offer(best, (0, 5, 3.0), (1, 0, 1.0), (0, 6, 1.0), (0, 7, 2.0))
    offer(best, (0, 1, 2.5), (1, 3, 0.0), (0, 2, 1.5))
    found = best.result(torch.arange(100, 110))
    assert found.ids.tolist() == [[106, 102], [103, 100]]
    assert found.distances.tolist() == [[1.0, 1.5], [0.0, 1.0]]


def test_offer__tie_goes_to_the_smaller_id_whenever_it_came():
    best = RunningTopK(1, 2, CPU)
    offer(best, (0, 8, 1.0), (0, 4, 1.0), (0, 6, 1.0))
    offer(best, (0, 2, 1.0))
    assert best.result(torch.arange(10)).ids.tolist() == [[2, 4]]


def test_worst__is_infinite_until_k_were_found():
    best = RunningTopK(2, 2, CPU)
    offer(best, (0, 1, 3.0), (0, 2, 0.5), (1, 1, 1.0))
    assert best.worst(slice(0, 2)).tolist() == [3.0, float("inf")]


def test_result__missing_have_no_id():
    best = RunningTopK(1, 3, CPU)
    offer(best, (0, 1, 3.0))
    found = best.result(torch.tensor([50, 51]))
    assert found.ids.tolist() == [[51, -1, -1]]
    assert found.distances.tolist() == [[3.0, float("inf"), float("inf")]]


def test_result__nothing_to_search_in():
    found = RunningTopK(2, 1, CPU).result(torch.zeros(0, dtype=torch.int64))
    assert found.ids.tolist() == [[-1], [-1]]

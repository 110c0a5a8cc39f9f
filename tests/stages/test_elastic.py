"""How many training workers there is room for."""

from __future__ import annotations

import pytest

from dm2at_ray.stages.elastic import workers_that_fit

NODES = {"a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 3.0}}


@pytest.mark.parametrize(
    ("need", "fit"),
    [
        ({"CPU": 1}, 7),
        ({"CPU": 2}, 2 + 1),
        ({"CPU": 1, "GPU": 1}, 2),
        ({"CPU": 5}, 0),
        ({"CPU": 0.1}, 40 + 30),
        ({"CPU": 1, "GPU": 0}, 7),
    ],
)
def test_workers_that_fit__each_on_one_node(need: dict[str, float], fit: int) -> None:
    assert workers_that_fit(need, NODES, held=[]) == fit


def test_workers_that_fit__own_ones_give_their_room_back() -> None:
    taken = {"a": {"CPU": 0.0}, "b": {"CPU": 1.0}}
    assert workers_that_fit({"CPU": 2}, taken, held=[]) == 0
    assert workers_that_fit({"CPU": 2}, taken, held=[("a", {"CPU": 2}), ("b", {"CPU": 2})]) == 2


def test_workers_that_fit__not_on_a_node_that_is_gone() -> None:
    assert workers_that_fit({"CPU": 2}, {"b": {"CPU": 1.0}}, held=[("a", {"CPU": 2}), ("", {"CPU": 2})]) == 0

"""What a training had reserved is given back to the attempt that follows a killed one."""

from __future__ import annotations

import pytest
import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from dm2at_ray.stages.reservations import (
    NamedReservations,
    ray_worker_group,
    release_reservations,
    reservation_prefix,
)


@pytest.mark.ray
def test_release_reservations__removes_those_of_one_training_only(joined: str) -> None:
    prefix, other = reservation_prefix("/runs/a", 1), reservation_prefix("/runs/a", 11)
    mine, others = (placement_group([{"CPU": 1}], name=f"{each}x") for each in (prefix, other))
    try:
        ray.get([mine.ready(), others.ready()], timeout=60)
        release_reservations(prefix)
        assert placement_group_table(mine)["state"] == "REMOVED"
        assert placement_group_table(others)["state"] == "CREATED"
    finally:
        remove_placement_group(others)


@pytest.mark.ray
def test_worker_group__is_preceded_by_the_end_of_what_the_last_one_had(
    joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train loses the group of workers that die while they start."""
    monkeypatch.setattr(ray_worker_group, "placement_group", placement_group)
    start = NamedReservations(reservation_prefix("/runs/lost", 1)).before_worker_group_start
    start(None)
    lost = ray_worker_group.placement_group([{"CPU": 1}])
    ray.get(lost.ready(), timeout=60)
    start(None)
    assert placement_group_table(lost)["state"] == "REMOVED"


def test_reservation_prefix__is_no_prefix_of_another_round_or_run() -> None:
    prefixes = [reservation_prefix(run, index) for run in ("/runs/a", "/runs/b") for index in (1, 11)]
    assert not any(a != b and b.startswith(a) for a in prefixes for b in prefixes)

"""What a training had reserved is given back to the attempt that follows a killed one."""

from __future__ import annotations

import pytest
import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from dm2at_ray.stages.reservations import release_reservations, reservation_prefix


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


def test_reservation_prefix__is_no_prefix_of_another_round_or_run() -> None:
    prefixes = [reservation_prefix(run, index) for run in ("/runs/a", "/runs/b") for index in (1, 11)]
    assert not any(a != b and b.startswith(a) for a in prefixes for b in prefixes)

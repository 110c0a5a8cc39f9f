"""Elastic training with as many workers as there is room for, beside whatever else the cluster does.

Ray Train's own policy counts what the nodes have, not what is free on them: where another actor holds a CPU
it asks for a worker that fits nowhere, times out after a minute, and asks for it again for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ray._private.state import available_resources_per_node
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.util import placement_group_table

SETTLE_SECONDS = 5.0
"""How long fewer workers than the nodes could hold are put off: the stage before gives its CPUs back late."""

LOOK_SECONDS = 1.0

Resources = Mapping[str, float]

_ROUNDING = 1e-6


def workers_that_fit(
    need: Resources, free: Mapping[str, Resources], held: Iterable[tuple[str, Resources]]
) -> int:
    """Workers that there is room for.

    Args:
        need: Resources of a worker.
        free: What nobody has reserved, by node.
        held: What the training itself has reserved, and would give back: nodes, gone ones too, and resources.

    Examples:
        >>> workers_that_fit({"CPU": 2}, {"a": {"CPU": 3}, "b": {"CPU": 1}}, [("b", {"CPU": 2})])
        2
    """
    room = {node: dict(resources) for node, resources in free.items()}
    for node, resources in held:
        if node in room:
            for name, amount in resources.items():
                room[node][name] = room[node].get(name, 0.0) + amount
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    return sum(
        min(int(resources.get(name, 0.0) / amount + _ROUNDING) for name, amount in wanted.items())
        for resources in room.values()
    )


class FreeRoomPolicy(ElasticScalingPolicy):
    """Ray Train's elastic policy, held to what is free.

    Args:
        scaling_config: Of the training; with a range of workers.
        reservations: What the names of the training's placement groups begin with.
    """

    def __init__(self, scaling_config: ScalingConfig, reservations: str) -> None:
        super().__init__(scaling_config)
        self._reservations = reservations
        self._most = 0
        self._put_off_since: float | None = None

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        self._most = super()._count_possible_workers(reserved_resources)
        need = self.scaling_config._resources_per_worker_not_none
        fit = workers_that_fit(need, available_resources_per_node(), self._held())
        return min(self._most, fit)

    def _held(self) -> Iterable[tuple[str, Resources]]:
        for group in placement_group_table().values():
            if group["name"].startswith(self._reservations) and group["state"] != "REMOVED":
                for index, node in group["bundles_to_node_id"].items():
                    yield node, group["bundles"][index]

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Start with all workers that fit, with fewer than the nodes could hold after a while only."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision) and self._may_start(decision.num_workers):
            self._put_off_since = None
            return decision
        # Ray Train asks again at once.
        time.sleep(LOOK_SECONDS)
        return NoopDecision()

    def _may_start(self, workers: int) -> bool:
        if workers >= self._most:
            return True
        now = time.monotonic()
        if self._put_off_since is None:
            self._put_off_since = now
        return now - self._put_off_since >= SETTLE_SECONDS

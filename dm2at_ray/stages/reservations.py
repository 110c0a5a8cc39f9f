"""What a training has reserved is given back when its driver dies, and nothing of it outlives the run.

Ray frees a placement group when its job ends, but a driver that Ray starts again is of the same job: what the
dead one had reserved would stay so, and on a small cluster the training would wait for ever. What Ray Train
has against it, a detached actor, needs Ray's dashboard, and is left behind by a run that is interrupted.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from ray import PlacementGroupID
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import worker_group as ray_worker_group
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from dm2at_ray.stages.elastic import FreeRoomPolicy


def reservation_prefix(run_uri: str, round_index: int) -> str:
    """What the names of a training's placement groups begin with."""
    return f"dm2at-{hashlib.sha256(run_uri.encode()).hexdigest()[:16]}-{round_index}-"


def release_reservations(prefix: str) -> None:
    """Remove the placement groups that are left of a training, and so end what runs in them."""
    for group_id, facts in placement_group_table().items():
        if facts["name"].startswith(prefix) and facts["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group_id))))


class NamedReservations(WorkerGroupCallback):
    """Gives the placement groups of Ray Train, which have no names, names that can be found again.

    Ray Train 2.60 itself loses the one of a worker group that fails between its first worker and its training
    function, as when a node dies then: it keeps all CPUs, and the next group waits for them for ever. So what
    is left of the groups before is removed before each group.

    Args:
        prefix: What the names begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Runs in the process of Ray Train's controller, which serves this one training."""
        release_reservations(self._prefix)

        def named(*args: Any, **kwargs: Any) -> PlacementGroup:
            return placement_group(*args, name=f"{self._prefix}{uuid.uuid4().hex}", **kwargs)

        ray_worker_group.placement_group = named


class Trainer(TorchTrainer):
    """Ray Train's trainer with named placement groups, without the detached actor that watches over them.

    Args:
        *args: As of the TorchTrainer.
        reservations: What the names of its placement groups begin with.
        **kwargs: As of the TorchTrainer.
    """

    def __init__(self, *args: Any, reservations: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reservations = reservations

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]
        return [*kept, NamedReservations(self._reservations)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            kwargs["scaling_policy"] = FreeRoomPolicy(self.scaling_config, self._reservations)
        return super()._initialize_and_run_controller(**kwargs)

"""Training workers share one labeled set, and see each epoch's samples once, whoever dies or joins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest
import ray
from ray.util import placement_group, remove_placement_group

from dm2at_ray.actor import DriverActor
from dm2at_ray.preflight import check
from dm2at_ray.stages import labeled_set
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.labeled_set import read_labeled_set, share_labeled_set, take_labeled_set
from dm2at_ray.store import RunDirectory
from dm2at_ray.training import LabeledSet, TrainSettings

from . import mortal as mortal_module
from . import watched as watched_module
from .commands import wait_for
from .mortal import Chronicle
from .processes import VARIABLE, end_marked, wait_until_gone
from .runs import EPOCHS, labeled_ids, play, round_of, same_weights, tiny_config
from .watched import KillsAWorker, Resized, Step, steps_of

CHECKPOINT_EVERY = 4
NODE_SECONDS = 60
RESIZE_SECONDS = 150
NEVER = {"rounds": 0}
WITH_TWINS = TrainSettings(adversaries="both")
MARK_OF_NODE = "second_node"


@pytest.fixture(scope="module", autouse=True)
def _carried_to_the_cluster() -> None:
    # Its processes cannot import this folder.
    for module in (mortal_module, watched_module):
        ray.cloudpickle.register_pickle_by_value(module)


@pytest.fixture(scope="module")
def killed(joined: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 0 of the reference's run, but that a training worker was killed in it."""
    directory = tmp_path_factory.mktemp("killed") / "run"
    assert play(tiny_config(stop=NEVER), directory, KillsAWorker).failure is None
    return directory


def test_killed_worker__costs_at_most_one_checkpoint_interval(killed: Path) -> None:
    first, second = attempts(steps_of(killed))
    (death,) = Chronicle(str(killed)).deaths().values()
    assert max(step.epoch for step in first) == death["epoch"] == KillsAWorker.EPOCH
    assert death["pid"] in {step.pid for step in first}
    assert not {step.pid for step in first} & {step.pid for step in second}
    begins = min(step.epoch for step in second)
    assert begins == KillsAWorker.EPOCH // CHECKPOINT_EVERY * CHECKPOINT_EVERY


def test_killed_worker__every_epoch_has_each_sample_once(killed: Path) -> None:
    first, second = attempts(steps_of(killed))
    assert {step.workers for step in (*first, *second)} == {2}
    whole_epochs = [step for step in first if step.epoch < KillsAWorker.EPOCH]
    for attempt, last in ((whole_epochs, KillsAWorker.EPOCH - 1), (second, EPOCHS - 1)):
        assert_each_epoch_has_each_sample_once(attempt, labeled_ids(killed, rounds=1), last)


def test_killed_worker__trains_the_same_model(killed: Path, reference: Path) -> None:
    assert same_weights(round_of(killed, 0), round_of(reference, 0))


def test_labeled_set__is_read_once_for_all_workers_and_attempts(killed: Path) -> None:
    assert_read_once(killed)


@pytest.fixture(scope="module")
def resized(joined: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on two nodes with room for a worker each; the second is taken at first, and lost at last."""
    directory = tmp_path_factory.mktemp("resized") / "run"
    chronicle = Chronicle(str(directory))
    config = tiny_config(training={"min_workers": 1}, compute={"cpus_per_worker": 3}, stop=NEVER)
    playing = Playing(config, directory, Resized)
    # Of a short name: sockets lie in it.
    with TemporaryDirectory() as own_temp, another_node(joined, 3, own_temp):
        taken = placement_group([{"CPU": 3, MARK_OF_NODE: 1}])
        try:
            ray.get(taken.ready(), timeout=NODE_SECONDS)
            playing.start()
            wait_for("one worker", lambda: chronicle.has("alone") or not playing.is_alive(), RESIZE_SECONDS)
        finally:
            remove_placement_group(taken)
        wait_for("two workers", lambda: chronicle.has("grown") or not playing.is_alive(), RESIZE_SECONDS)
    playing.join()
    assert playing.failure is None
    return directory


class Playing(Thread):
    """Plays a run to its end, beside the test."""

    def __init__(self, config: object, directory: Path, actor_class: type[DriverActor]) -> None:
        super().__init__(daemon=True)
        self._arguments = (config, directory, actor_class)
        self.failure: object = "it has not ended"

    def run(self) -> None:
        try:
            self.failure = play(*self._arguments).failure
        except Exception as error:
            self.failure = error


@contextmanager
def another_node(address: str, cpus: int, own_temp: str) -> Iterator[None]:
    """A node that joins the cluster and leaves it, as when a machine is reclaimed, its workers and all."""
    mark = uuid.uuid4().hex
    options = [
        # Elsewhere `ray start` would tell every `ray.init` of this machine to join the cluster.
        f"--temp-dir={own_temp}",
        "--num-gpus=0",
        f"--resources={json.dumps({MARK_OF_NODE: 1})}",
        "--object-store-memory=100000000",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(f"--address={address}", f"--num-cpus={cpus}", *options),
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", VARIABLE: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=NODE_SECONDS)
        end_marked(mark)
        wait_until_gone(mark, NODE_SECONDS)


def test_elastic_training__grows_and_shrinks_with_the_room_there_is(resized: Path) -> None:
    groups = attempts(steps_of(resized))
    assert [{step.workers for step in group} for group in groups] == [{1}, {2}, {1}]
    begins = [min(step.epoch for step in group) for group in groups]
    assert begins == [0, 4, 8], "each goes on from the checkpoint before"


def test_elastic_training__every_epoch_has_each_sample_once(resized: Path) -> None:
    groups = attempts(steps_of(resized))
    for group, last in zip(groups, (Resized.GROWS - 1, Resized.SHRINKS - 1, EPOCHS - 1), strict=True):
        assert_each_epoch_has_each_sample_once(group, labeled_ids(resized, rounds=1), last)


def test_elastic_training__reads_the_labeled_set_once(resized: Path) -> None:
    assert_read_once(resized)


@pytest.fixture
def context(joined: str, reference: Path) -> StageContext:
    """Round 1 of the reference."""
    config, run = tiny_config(), RunDirectory(str(reference))
    plan = check(config, run)
    size = config.model.batch_size
    return StageContext(run.uri, plan.source, plan.model, config.seed, 1, size, config.compute)


def test_share_labeled_set__is_the_labeled_set(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeled_set, "TASK_ROWS", 50)
    taken = take_labeled_set(share_labeled_set(context, WITH_TWINS), context, WITH_TWINS)
    assert_same_set(taken, read_labeled_set(context, WITH_TWINS))
    assert int(taken.twin_mask().sum()) == 75
    assert not taken.images.flags.writeable, "it lies in the object store"


@ray.remote
class Owner:
    def own(self) -> list[ray.ObjectRef]:
        return [ray.put(np.zeros(1_000_000))]


def test_take_labeled_set__that_is_lost_is_read_again(context: StageContext) -> None:
    owner = Owner.remote()
    (lost,) = ray.get(owner.own.remote())
    ray.kill(owner)
    wait_for("the end of what it owned", lambda: is_lost(lost), NODE_SECONDS)
    assert_same_set(take_labeled_set(lost, context, WITH_TWINS), read_labeled_set(context, WITH_TWINS))


def is_lost(ref: ray.ObjectRef) -> bool:
    try:
        ray.get(ref, timeout=1)
    except ray.exceptions.ObjectLostError:
        return True
    return False


def test_take_labeled_set__that_does_not_come_is_read_again(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeled_set, "WAIT_SECONDS", 0.5)
    never = ray.remote(num_cpus=1000)(lambda: None).remote()
    assert_same_set(take_labeled_set(never, context, WITH_TWINS), read_labeled_set(context, WITH_TWINS))
    ray.cancel(never)


def assert_same_set(one: LabeledSet, other: LabeledSet) -> None:
    for field in fields(LabeledSet):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def attempts(steps: list[Step]) -> list[list[Step]]:
    """The steps of each group of workers that Ray Train started."""
    groups: list[list[Step]] = []
    of_pid: dict[int, list[Step]] = {}
    for step in steps:
        if step.pid not in of_pid:
            last = groups[-1] if groups else []
            if not last or any(
                (other.workers, other.rank) != (step.workers, 1 - step.rank) for other in last
            ):
                groups.append([])
            of_pid[step.pid] = groups[-1]
        of_pid[step.pid].append(step)
    return groups


def assert_each_epoch_has_each_sample_once(steps: list[Step], ids: np.ndarray, last_epoch: int) -> None:
    by_epoch: dict[int, list[int]] = {}
    for step in steps:
        by_epoch.setdefault(step.epoch, []).extend(step.ids)
    assert sorted(by_epoch) == list(range(min(by_epoch), last_epoch + 1))
    for epoch, seen in by_epoch.items():
        assert sorted(seen) == ids.tolist(), epoch


def assert_read_once(directory: Path) -> None:
    chronicle = Chronicle(str(directory))
    read = [sample_id for _pid, *ids in chronicle.notes("read by a task") for sample_id in ids]
    assert sorted(read) == labeled_ids(directory, rounds=1).tolist()
    assert not chronicle.has("read by a worker")
    assert not any(step.owns_images for step in steps_of(directory)), "they lie in the node's object store"

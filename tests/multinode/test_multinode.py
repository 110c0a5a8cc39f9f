"""Runs on several nodes: every node works, and none is missed when it dies; the driver neither."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..integration.commands import wait_for
from ..integration.runs import copy_of_round_0, round_of, same_weights
from .nodes import Nodes
from .runs import make_folder, submitted

pytestmark = pytest.mark.multinode

STAGES = ("embed", "neighbors", "score", "craft", "train", "evaluate")
DEATHS = ("embed", "neighbors", "score", "craft", "start of train", "train", "evaluate")
STAGE_SECONDS = 500
NEIGHBOR_TASKS = {"draw", "fit_plan", "search_truth", "search_blocks", "merge_found", "found_for", "write"}
WORK = {
    "MapWorker(MapBatches(Embedder)).submit",
    "search_blocks",
    "MapBatches(_on_task)",
    "RayTrainWorker.run_train_fn",
}
"""Ray's names of the tasks that compute something."""
CHECKPOINT = "rounds/0001/train/fit/checkpoint_manager_snapshot.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("user"))


@dataclass(frozen=True)
class Placed:
    """A run, and where its work was done.

    Attributes:
        run: Its directory.
        nodes: Stage -> names of the nodes of which a process has passed the gate, or has run a task of it.
    """

    run: Path
    nodes: dict[str, set[str]]


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, folder: Path) -> Placed:
    run = folder / "undisturbed"
    placed: dict[str, set[str]] = {}
    with submitted(nodes, folder, run) as submission:
        for stage in STAGES:
            if stage == "neighbors":
                continue
            nodes.gate.close(run, stage)
            placed[stage] = nodes.gate.wait_for(nodes=2)
            nodes.gate.open()
        assert submission.end() == 0, submission.output
    placed["neighbors"] = {node for name, node in nodes.tasks() if name in NEIGHBOR_TASKS}
    return Placed(run, placed)


@pytest.fixture(scope="module")
def bereaved(nodes: Nodes, folder: Path, undisturbed: Placed) -> tuple[Path, dict[str, str]]:
    """A run of which a node dies in every stage, a new one taking its place; stage -> the node's name."""
    run = copy_of_round_0(undisturbed.run, folder / "bereaved")
    dead: dict[str, str] = {}
    with submitted(nodes, folder, run) as submission:
        for death in DEATHS:
            stage = death.rpartition(" ")[2]
            if death == "neighbors":
                wait_for(stage, lambda: stage_of(run) == ("neighbors", 1), STAGE_SECONDS)
                victim = min(nodes.alive())
            elif death == "start of train":
                # Workers of both nodes are there, and take seconds to join each other.
                victim = wait_for(death, lambda: _with_training_workers(nodes), STAGE_SECONDS)
            else:
                nodes.gate.close(run, stage, after=run / CHECKPOINT if stage == "train" else None)
                # One waits for the other in the midst of a training.
                victim = min(nodes.gate.wait_for(nodes=1 if stage == "train" else 2))
            nodes.kill(victim)
            assert stage_of(run) == (stage, 1), "the stage was over"
            assert death != "start of train" or not (run / CHECKPOINT).exists()
            dead[death] = victim
            nodes.add()
            nodes.gate.open()
        assert submission.end() == 0, submission.output
    return run, dead


def _with_training_workers(nodes: Nodes) -> str | None:
    """One of two nodes on which a training worker has started; None while there are no two."""
    there = [node for node in nodes.alive() if nodes.processes(node, running="ray::RayTrainWorker")]
    return min(there) if len(there) == 2 else None


def test_run__has_its_driver_on_the_head(nodes: Nodes, undisturbed: Placed) -> None:
    assert {node for name, node in nodes.tasks() if name == "DriverActor.run"} == {"head"}


@pytest.mark.parametrize("stage", STAGES)
def test_run__works_on_every_node(undisturbed: Placed, stage: str) -> None:
    assert undisturbed.nodes[stage] == {"w1", "w2"}


def test_killed_nodes__are_as_many_as_deaths(bereaved: tuple[Path, dict[str, str]]) -> None:
    assert len(set(bereaved[1].values())) == len(DEATHS)


def test_killed_nodes__change_no_selected_id(
    bereaved: tuple[Path, dict[str, str]], undisturbed: Placed
) -> None:
    expect_same_round_1(bereaved[0], undisturbed.run)


def test_killed_driver__resumes_when_it_is_submitted_again_and_uses_a_new_node(
    nodes: Nodes, folder: Path, undisturbed: Placed
) -> None:
    run = copy_of_round_0(undisturbed.run, folder / "resubmitted")
    with submitted(nodes, folder, run) as first:
        nodes.gate.close(run, "embed")
        nodes.gate.wait_for(nodes=2)
        new = nodes.add()
        nodes.gate.open()
        nodes.gate.close(run, "train", after=run / CHECKPOINT)
        nodes.gate.wait_for(nodes=1)
        for process in nodes.processes("head", running="-m dm2at_ray run"):
            os.kill(process, signal.SIGKILL)
        assert first.end() == 128 + signal.SIGKILL, first.output
    assert not round_of(run, 1).has_model
    queried = (run / "rounds/0001/queries.parquet").stat().st_mtime_ns
    with submitted(nodes, folder, run) as second:
        assert second.end() == 0, second.output
    assert (run / "rounds/0001/queries.parquet").stat().st_mtime_ns == queried
    expect_same_round_1(run, undisturbed.run)
    assert {name for name, node in nodes.tasks() if node == new} & WORK


def expect_same_round_1(run: Path, undisturbed: Path) -> None:
    """The queries, and the model, on which those of the next round would depend."""
    found, expected = round_of(run, 1), round_of(undisturbed, 1)
    assert found.committed
    assert found.queries().equals(expected.queries())
    assert same_weights(found, expected)
    assert found.metrics()["accuracy"] == expected.metrics()["accuracy"]


def stage_of(run: Path) -> tuple[str, int] | None:
    """The stage in progress and its round."""
    try:
        status = json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return None
    return status["stage"], status["round"]

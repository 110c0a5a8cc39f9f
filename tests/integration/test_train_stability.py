"""Trainings that collapse, spoil or change their number of workers, in real rounds."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import ray

from dm2at_ray import Config
from dm2at_ray.actor import Outcome, start_driver
from dm2at_ray.preflight import check, check_resources
from dm2at_ray.store import RunDirectory
from dm2at_ray.training import TrainState

from .runs import RUN_SECONDS, round_of, tiny_config
from .spoilt_network import SOUND_PASSES

TESTS = Path(__file__).parents[1]
# At this radius plain FGSM on the digits collapses within 8 epochs of 13 steps.
COLLAPSING: dict[str, dict[str, Any]] = {
    "query": {"initial": 900},
    "attack": {"epsilon": 0.3},
    "stop": {"rounds": 0},
}
FGSM = {"attack": "fgsm", "steps": 117, "checkpoint_every": 3}


def play(config: Config, directory: Path) -> tuple[Outcome, list[str]]:
    """Play a run to its end; how it ended, and what it had to say."""
    run = RunDirectory(str(directory))
    driver = start_driver(config, check(config, run), run, uuid.uuid4().hex)
    try:
        outcome = ray.get(driver.run.remote(), timeout=RUN_SECONDS)
        return outcome, list(ray.get(driver.snapshot.remote()).notices)
    finally:
        ray.kill(driver)


def last_checkpoint(directory: Path) -> TrainState:
    """What a training that was stopped has left to go on from."""
    train = Path(round_of(directory, 0).files.root) / "train"
    (kept,) = (path.parent for path in train.glob("fit/*/state.json"))
    return TrainState.load(kept)


def test_training__that_collapses_is_answered_counted_and_told(joined: str, tmp_path: Path) -> None:
    training = {**FGSM, "on_collapse": "switch_attack", "ema": 0.5}
    outcome, notices = play(tiny_config(**COLLAPSING, training=training), tmp_path / "run")
    assert outcome.failure is None
    stability = round_of(tmp_path / "run", 0).metrics()["training"]["stability"]
    assert 60 < stability["held_out"] < 120
    assert [look["epoch"] for look in stability["looks"]] == [4, 8, 9]
    answered = [look for look in stability["looks"] if look["answer"]]
    assert {look["collapse"] for look in answered} == {"overfitting"}
    assert {look["answer"] for look in answered} == {"switch_attack"}
    assert stability["attack"] == answered[-1]["attack"]
    assert stability["outcome"] == "average"

    told = [notice for notice in notices if "catastrophic overfitting" in notice]
    assert len(told) == len(answered)
    assert re.match(r"round 0, epoch \d+: .*; training goes on from epoch \d+ with attack: n_fgsm", told[0])
    assert sum(f"now {stability['held_out']}, at most" in notice for notice in notices) == 1


def test_training__with_a_non_finite_loss_names_the_samples_and_keeps_the_last_good_checkpoint(
    joined: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TESTS)
    config = tiny_config(
        model={"name": "integration.spoilt_network:network"},
        query={"initial": 150},
        training={"steps": 100, "batch_size": 10, "checkpoint_every": 1},
        stop={"rounds": 0},
    )
    directory = tmp_path / "run"
    outcome, _ = play(config, directory)
    good_epochs = SOUND_PASSES // 15
    assert outcome.failure is not None
    found = re.match(
        rf"loss is not finite in round 0, epoch {good_epochs}, step 5 of it \(samples ([\d, ]+) and 2 more\)",
        outcome.failure,
    )
    assert found
    labeled = set(round_of(directory, 0).query_ids().tolist())
    assert {int(each) for each in found[1].split(",")} <= labeled
    state = last_checkpoint(directory)
    assert state.report.epoch == good_epochs
    assert all(tensor.isfinite().all() for tensor in state.weights.values())

    again, _ = play(config, directory)
    assert again.failure == outcome.failure, "it goes on from that checkpoint"
    assert last_checkpoint(directory).report.epoch == good_epochs


def test_training__is_elastic(joined: str, tmp_path: Path) -> None:
    """More workers than the cluster of 4 CPUs holds: it starts with as many as fit."""
    training = {"workers": 6, "min_workers": 1, "steps": 20}
    config = tiny_config(training=training, stop={"rounds": 0}, compute={"cpus_per_worker": 1})
    check_resources(config, ray.cluster_resources())
    outcome, _ = play(config, tmp_path / "run")
    assert outcome.failure is None
    trained = round_of(tmp_path / "run", 0).metrics()["training"]
    assert trained["steps"] == 20
    assert 1 <= trained["workers"] <= 4

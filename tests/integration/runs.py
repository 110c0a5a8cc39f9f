"""Tiny runs and single selections, as the driver makes them."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from safetensors.torch import load

from dm2at_ray import Config
from dm2at_ray.actor import DriverActor, Outcome, start_driver
from dm2at_ray.config_sections import StopConfig
from dm2at_ray.driver import Driver
from dm2at_ray.journal import Journal
from dm2at_ray.preflight import check
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.manifest import summary_of
from dm2at_ray.standing import Standing
from dm2at_ray.store import RoundDirectory, RunDirectory

RUN_SECONDS = 400
EPOCHS = 40

TINY: dict[str, dict[str, Any]] = {
    # Of the digits' 1,453 images 2 blocks, of 75 queries 2 batches, of the 344 held-out images 2 pieces.
    "model": {"batch_size": 64},
    "query": {"initial": 100, "size": 75},
    "training": {"workers": 2, "epochs": EPOCHS, "min_steps": 0, "checkpoint_every": 4},
    "evaluation": {"pgd_steps": 2},
    "stop": {"rounds": 1},
    "compute": {"actors": 2, "cpus_per_actor": 0.5, "cpus_per_worker": 0.5, "block_rows": 1024},
    "monitoring": {"enabled": False},
}


def tiny_config(**sections: dict[str, Any]) -> Config:
    """The config of `TINY`, with other values where they are given: `tiny_config(query={"size": 10})`."""
    merged = {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}}
    return Config.from_mapping({"name": "tiny", **merged})


def play(config: Config, directory: Path, actor_class: type[DriverActor]) -> Outcome:
    """Play a run to its end under another driver than the real one."""
    run = RunDirectory(str(directory))
    driver = start_driver(config, check(config, run), run, uuid.uuid4().hex, actor_class)
    try:
        return ray.get(driver.run.remote(), timeout=RUN_SECONDS)
    finally:
        ray.kill(driver)


def copy_of_round_0(reference: Path, directory: Path) -> Path:
    """A run directory in which round 0 of another one is committed, and nothing more has happened."""
    shutil.copytree(reference, directory, ignore=shutil.ignore_patterns("0001", "status.json"))
    return directory


def select_round_1(config: Config, directory: Path) -> pa.Table:
    """Steps 1 to 4 of round 1 on a run directory in which round 0 is committed."""
    run = RunDirectory(str(directory))
    plan = check(config, run)
    # With no query round to play, `run` only opens the pool.
    over = config.model_copy(update={"stop": StopConfig(rounds=0)})
    driver = Driver(over, run, plan.source, plan.model, Journal(run, over, plan.class_names))
    driver.run(plan.sizes, plan.class_names)
    context = StageContext(
        run_uri=run.uri,
        source=plan.source,
        model=plan.model,
        seed=config.seed,
        round_index=1,
        batch_size=config.model.batch_size,
        compute=config.compute,
    )
    labeled = labeled_ids(directory, rounds=1)
    summary = summary_of(run, "pool")
    assert summary is not None
    return driver.select(context, Standing(summary, labeled, len(labeled), skipped=0))


def labeled_ids(directory: Path, rounds: int) -> np.ndarray:
    """Ascending ids (n,) int64 that were labeled in the first so many rounds."""
    labels = [round_of(directory, index).labels() for index in range(rounds)]
    return np.sort(np.concatenate([table["sample_id"].to_numpy() for table in labels]))


def round_of(directory: Path, index: int) -> RoundDirectory:
    """A round of a run directory."""
    return RunDirectory(str(directory)).round(index)


def same_weights(one: RoundDirectory, other: RoundDirectory) -> bool:
    """Whether two rounds trained the same model, bit for bit."""
    name = "model/model.safetensors"
    a, b = load(one.files.read_bytes(name)), load(other.files.read_bytes(name))
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)

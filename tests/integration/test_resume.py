"""A run goes on where it was, whatever was killed: with the same queries and models, no label asked twice."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util import placement_group, remove_placement_group

from dm2at_ray import RunError, run
from dm2at_ray.actor import start_driver
from dm2at_ray.driver import Ending
from dm2at_ray.preflight import check
from dm2at_ray.store import Lease, RunDirectory

from . import mortal as mortal_module
from .commands import Command, wait_for
from .mortal import DEATHS, Chronicle, MortalDriver
from .runs import EPOCHS, copy_of_round_0, play, round_of, same_weights, tiny_config

COMMAND_SECONDS = 180
GONE_SECONDS = 30
CLUSTER_CPUS = 4


@pytest.fixture(scope="module")
def mortal(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run like the reference, but for the deaths of its driver."""
    directory = tmp_path_factory.mktemp("mortal") / "run"
    # Its process cannot import this folder.
    ray.cloudpickle.register_pickle_by_value(mortal_module)
    # Leaves just what a training needs: what a dead driver's training had reserved must be given back.
    others = placement_group([{"CPU": CLUSTER_CPUS - 1}])
    ray.get(others.ready(), timeout=GONE_SECONDS)
    try:
        outcome = play(tiny_config(), directory, MortalDriver)
    finally:
        remove_placement_group(others)
    assert outcome.failure is None
    assert outcome.ending == Ending("done", "all 1 query rounds are done")
    return directory


def test_killed_driver__died_in_every_stage(mortal: Path) -> None:
    deaths = Chronicle(str(mortal)).deaths()
    assert set(deaths) == set(DEATHS)
    assert len({death["pid"] for death in deaths.values()}) == len(DEATHS)
    for stage in ("embed", "neighbors", "score", "craft", "evaluate"):
        assert 0 < deaths[stage]["done"] < deaths[stage]["total"], stage


@pytest.mark.parametrize("index", [0, 1])
def test_killed_driver__selects_the_same(mortal: Path, reference: Path, index: int) -> None:
    assert round_of(mortal, index).queries().equals(round_of(reference, index).queries())


def test_killed_driver__asks_for_every_label_once(mortal: Path) -> None:
    chronicle = Chronicle(str(mortal))
    asked = np.sort([sample_id for _pid, *ids in chronicle.notes("asked") for sample_id in ids])
    queried = np.sort(np.concatenate([round_of(mortal, index).query_ids() for index in (0, 1)]))
    labeled = np.sort(
        np.concatenate([round_of(mortal, index).labels()["sample_id"].to_numpy() for index in (0, 1)])
    )
    assert len(np.unique(asked)) == len(asked) == 175
    assert asked.tolist() == queried.tolist() == labeled.tolist()


def test_killed_driver__keeps_the_labels_it_has(mortal: Path, reference: Path) -> None:
    labels = round_of(mortal, 1).files.read_bytes("labels.parquet")
    assert labels.hex() == Chronicle(str(mortal)).deaths()["label"]["labels"]
    of_mortal, of_reference = (round_of(d, 1).labels().drop_columns("time") for d in (mortal, reference))
    assert of_mortal.equals(of_reference)


def test_killed_driver__trains_on_from_its_checkpoint(mortal: Path) -> None:
    chronicle = Chronicle(str(mortal))
    death = chronicle.deaths()["train"]
    heard = [done for pid, done in chronicle.notes("steps") if pid != death["pid"]]
    assert heard, "the driver that came after heard nothing of the training"
    assert min(heard) > death["epoch"] * death["steps_per_epoch"]
    assert max(heard) == EPOCHS * death["steps_per_epoch"]


@pytest.mark.parametrize("index", [0, 1])
def test_killed_driver__reports_the_same(mortal: Path, reference: Path, index: int) -> None:
    assert same_weights(round_of(mortal, index), round_of(reference, index))
    expected, found = round_of(reference, index).metrics(), round_of(mortal, index).metrics()
    # A driver that dies between a stage and the note of what it took leaves that out.
    for timed in ("training", "stage_seconds", "stage_images", "stage_images_by_node", "time"):
        del expected[timed], found[timed]
    assert found == expected


def test_killed_command__goes_on_when_it_is_given_again_with_other_resources(
    reference: Path, tmp_path: Path
) -> None:
    directory = copy_of_round_0(reference, tmp_path / "run")
    config = tiny_config(compute={"object_store_bytes": 100_000_000})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    arguments = ("run", tmp_path / "config.yaml", "--run-dir", directory)
    checkpoint = directory / "rounds/0001/train/fit/checkpoint_manager_snapshot.json"

    with Command(*arguments, folder=tmp_path) as first:
        wait_for(
            "a checkpoint", lambda: checkpoint.exists() or first.process.poll() is not None, COMMAND_SECONDS
        )
        assert first.process.poll() is None, first.stderr
        os.killpg(first.process.pid, signal.SIGKILL)
        assert first.end(GONE_SECONDS) == -signal.SIGKILL
        wait_for("the end of all its processes", lambda: not first.processes(), GONE_SECONDS)
    assert not round_of(directory, 1).has_model, "it was too late: the training was over"

    other = ("--set", "compute.actors=1", "--set", "compute.block_rows=4096")
    with Command(*arguments, *other, folder=tmp_path) as second:
        assert second.end(COMMAND_SECONDS) == 0, second.stderr
        wait_for("the end of all its processes", lambda: not second.processes(), GONE_SECONDS)
    found, expected = round_of(directory, 1), round_of(reference, 1)
    assert found.committed
    assert found.queries().equals(expected.queries())
    assert found.labels().drop_columns("time").equals(expected.labels().drop_columns("time"))
    assert same_weights(found, expected)
    assert found.metrics()["accuracy"] == expected.metrics()["accuracy"]


def test_run__does_nothing_when_all_is_done(reference: Path) -> None:
    before = _files_of_rounds(reference)
    result = run(tiny_config(), reference)
    assert result.reason == "all 1 query rounds are done"
    assert result.rounds == [round_of(reference, index).metrics() for index in (0, 1)]
    assert _files_of_rounds(reference) == before


def test_run__names_the_fields_of_another_config(reference: Path) -> None:
    other = tiny_config(query={"size": 76}, mixup={"alpha": 0.5}, compute={"actors": 1})
    with pytest.raises(RunError) as refused:
        run(other, reference)
    (line,) = str(refused.value).splitlines()
    assert "query.size was 75, now 76" in line
    assert "mixup.alpha was 1.0, now 0.5" in line
    assert "compute" not in line


def test_run__refuses_a_second_driver_of_the_cluster(reference: Path, tmp_path: Path) -> None:
    directory = copy_of_round_0(reference, tmp_path / "run")
    config, run_directory = tiny_config(), RunDirectory(str(directory))
    driver = start_driver(config, check(config, run_directory), run_directory, uuid.uuid4().hex)
    try:
        with pytest.raises(RunError, match="a driver of this cluster works on it"):
            run(config, directory)
    finally:
        ray.kill(driver)


def test_run__refuses_a_driver_elsewhere(reference: Path, tmp_path: Path) -> None:
    directory = copy_of_round_0(reference, tmp_path / "run")
    lease = Lease(RunDirectory(str(directory)).files, owner="a driver of another cluster")
    lease.acquire()
    with pytest.raises(RunError, match=f"driver {os.getpid()} on .* works on it"):
        run(tiny_config(), directory)
    assert not (directory / "rounds/0001").exists()


def _files_of_rounds(directory: Path) -> dict[str, int]:
    """Every file of the rounds with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in (directory / "rounds").rglob("*")}

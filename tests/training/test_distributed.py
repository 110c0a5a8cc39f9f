"""One, two and three gloo workers train alike; the workers run ddp_workers.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dm2at_ray

WORKERS = Path(__file__).with_name("ddp_workers.py")
PLACES = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ddp")
    package_root = str(Path(dm2at_ray.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": package_root}
    process = subprocess.Popen([sys.executable, WORKERS, directory], env=environment, start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return directory


def seen(outputs: Path, world_size: int, rank: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((outputs / f"{world_size}-{rank}.json").read_text())
    return values


@pytest.mark.parametrize("world_size", [2, 3])
def test_train__workers_follow_the_losses_of_one(outputs: Path, world_size: int) -> None:
    one, first = seen(outputs, 1, 0), seen(outputs, world_size, 0)
    assert len(one["losses"]) == 21
    assert max(one["losses"]) > 1.5 * min(one["losses"])  # there is something to follow
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for name in ("images", "clean", "adversarial"):
        assert first[name] == one[name]


@pytest.mark.parametrize(("world_size", "rank"), PLACES[1:])
def test_train__workers_end_with_the_weights_of_one(outputs: Path, world_size: int, rank: int) -> None:
    expected = load_file(outputs / "1-0.safetensors")
    torch.testing.assert_close(
        load_file(outputs / f"{world_size}-{rank}.safetensors"), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("world_size", "rank"), PLACES)
def test_train__every_worker_takes_every_step_and_reports(outputs: Path, world_size: int, rank: int) -> None:
    values = seen(outputs, world_size, rank)
    assert values["forwards"] == 21
    assert values["epochs"] == [1, 2, 3]
    assert bool(values["losses"]) == (rank == 0)


@pytest.mark.parametrize(("world_size", "rank"), PLACES[1:])
def test_train__workers_look_at_the_same_and_agree(outputs: Path, world_size: int, rank: int) -> None:
    one, first, own = (seen(outputs, *place) for place in ((1, 0), (world_size, 0), (world_size, rank)))
    assert own["stability"] == first["stability"]
    assert own["watched"] == first["watched"]
    assert own["stability"]["held_out"] == one["stability"]["held_out"] > 40
    (look,), (expected,) = own["stability"]["looks"], one["stability"]["looks"]
    # Batch norm is not synchronized: each worker normalizes by its own share.
    assert look["clean"] == pytest.approx(expected["clean"], abs=0.2)
    assert own["stability"]["outcome"] == "average"


def test_train__all_workers_raise_the_same_error(outputs: Path) -> None:
    errors = [seen(outputs, world_size, rank)["error"] for world_size, rank in PLACES]
    assert all(error == errors[0] for error in errors)
    assert errors[0]["epoch"] == 0
    assert 108 in errors[0]["ids"]
    assert "round 1, epoch 0, step" in errors[0]["text"]

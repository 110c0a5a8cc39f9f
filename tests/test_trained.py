"""Which round's model is taken, and what its classes are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.models import ModelSpec
from dm2at_ray.store import RunDirectory
from dm2at_ray.trained import class_names, round_with_model

SPEC = ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Rounds 0 and 1 are committed, round 2 is trained only."""
    run = RunDirectory(str(tmp_path))
    for index in range(3):
        run.round(index).write_model(b"", SPEC, {})
        if index < 2:
            run.round(index).commit()
    return run


def test_round_with_model__the_last_one_unless_another_is_asked_for(run: RunDirectory) -> None:
    assert round_with_model(run, None).index == 2
    assert round_with_model(run, None, committed=True).index == 1
    assert round_with_model(run, 0, committed=True).index == 0
    with pytest.raises(RunError, match=r"round 2 is not committed; choose one of 0, 1$"):
        round_with_model(run, 2, committed=True)
    with pytest.raises(RunError, match=r"no round is committed yet; wait for round 0 to be finished$"):
        round_with_model(RunDirectory(f"{run.uri}/nowhere"), None, committed=True)


def test_class_names__those_that_the_run_keeps(run: RunDirectory) -> None:
    run.files.write_json("classes.json", {"names": ["ape", "cat", "dog", "emu"]})
    assert class_names(run, Config(), 4) == ["ape", "cat", "dog", "emu"]
    # The fourth came after the model was trained.
    assert class_names(run, Config(), 3) == ["ape", "cat", "dog"]
    assert class_names(run, Config(), 6) == ["ape", "cat", "dog", "emu", "4", "5"]


def test_class_names__else_those_of_the_pool_else_numbers(run: RunDirectory, tmp_path: Path) -> None:
    assert class_names(run, Config(), 10) == [str(digit) for digit in range(10)]
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "ape").mkdir()
    folder = {"source": "image_folder", "path": str(tmp_path / "images"), "image_size": 8, "channels": 3}
    assert class_names(run, Config.from_mapping({"data": folder}), 2) == ["ape", "cat"]
    gone = {**folder, "path": str(tmp_path / "gone")}
    assert class_names(run, Config.from_mapping({"data": gone}), 2) == ["0", "1"]

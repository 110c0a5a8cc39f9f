"""What `dm2at evaluate` refuses before it starts Ray, each in one line."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import UserError
from dm2at_ray.models import ModelSpec
from dm2at_ray.monitoring.progress import LineProgress
from dm2at_ray.run_evaluation import Request, evaluate_run
from dm2at_ray.store import RunDirectory


def refused(run_dir: Path, request: Request) -> str:
    with pytest.raises(UserError) as caught:
        evaluate_run(str(run_dir), request, LineProgress(io.StringIO()))
    return str(caught.value)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that was begun, with nothing trained."""
    RunDirectory(str(tmp_path)).write_config(Config())
    return tmp_path


def test_evaluate_run__no_run(tmp_path: Path) -> None:
    assert "no run there" in refused(tmp_path, Request())


def test_evaluate_run__unknown_attack(run_dir: Path) -> None:
    expected = "attack deepfool: unknown; use one of clean, fgsm, pgd, autoattack"
    assert refused(run_dir, Request(attacks=("pgd", "deepfool"))) == expected


def test_evaluate_run__autoattack_is_not_installed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refused(run_dir, Request(attacks=("autoattack",)))
    assert message.endswith("install the extra: pip install 'dm2at-ray[robust]'")


def test_evaluate_run__nothing_is_trained_yet(run_dir: Path) -> None:
    expected = f"run directory {run_dir}: no round has a model yet; wait for round 0 to be trained"
    assert refused(run_dir, Request()) == expected


def test_evaluate_run__no_such_round(run_dir: Path) -> None:
    for index in (0, 1):
        spec = ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8)
        RunDirectory(str(run_dir)).round(index).write_model(b"", spec, {})
    expected = f"run directory {run_dir}: round 7 has no model; choose one of 0, 1"
    assert refused(run_dir, Request(round_index=7)) == expected

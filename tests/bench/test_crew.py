"""Trials in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dm2at_ray.bench.crew import run_in_processes
from dm2at_ray.bench.images import load_split_images
from dm2at_ray.bench.robustness_settings import RobustnessSettings
from dm2at_ray.bench.trial import Trial, run_trial

MODELS = """
import os
import sys
from torch import nn

print('{"clean": 1}')

def network(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

def deadly(num_classes, in_channels, image_size):
    print("out of luck", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)

def no_network(num_classes, in_channels, image_size):
    return None
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A quick one with a linear model, whose module says something on stdout."""
    (tmp_path / "crew_models.py").write_text(MODELS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = RobustnessSettings(
        recipes=["clean"],
        seeds=[0],
        model="crew_models:network",
        labels=100,
        test=50,
        training={"epochs": 2, "min_steps": 0},
    )
    return settings.trials()[0]


def test_run_in_processes__another_takes_the_place_of_one_that_died(trial: Trial, idx_images: Path) -> None:
    deadly = Trial(**{**vars(trial), "model": "crew_models:deadly"})
    faulty = Trial(**{**vars(trial), "model": "crew_models:no_network"})
    trials = [trial, deadly, faulty, Trial(**{**vars(trial), "seed": 1})]
    done = list(run_in_processes(trials, jobs=1, threads=1, images=idx_images))
    assert [trial for trial, _ in done] == trials
    first, died, refused, second = (row for _, row in done)
    assert died.error == 'ended with code 3: {"clean": 1} | out of luck'
    assert (died.recipe, died.seed, died.clean) == ("clean", 0, None)
    assert str(refused.error).startswith("model crew_models:no_network ")
    alone = run_trial(trial, *load_split_images(idx_images))
    assert (first.clean, first.pgd, first.intervals) == (alone.clean, alone.pgd, alone.intervals)
    assert second.error is None
    assert second.seed == 1


def test_run_in_processes__no_more_processes_than_trials(trial: Trial, idx_images: Path) -> None:
    assert list(run_in_processes([], jobs=4, threads=1, images=idx_images)) == []

"""What a training starts with: the settings, and the model, read from the run directory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args, get_type_hints

import pytest
import torch

from dm2at_ray.config_sections import TrainingConfig
from dm2at_ray.stages.train import initial_model, settings_of
from dm2at_ray.training import TrainSettings

from .digits_run import DigitsRun


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_initial_model__is_new_for_every_round_and_the_same_again(digits_run: DigitsRun) -> None:
    first, second = (initial_model(digits_run.context(index), warm_start=False) for index in (0, 1))
    assert not same(first, second)
    assert same(second, initial_model(digits_run.context(1), warm_start=False))


def test_initial_model__warm_start_goes_on_from_the_round_before(digits_run: DigitsRun) -> None:
    context = digits_run.context(1)
    before = context.model.build()
    before.load_state_dict(digits_run.directory.round(0).weights())
    assert same(initial_model(context, warm_start=True), before)
    assert initial_model(context, warm_start=True).training


def test_initial_model__warm_start_of_round_0_is_a_new_model(digits_run: DigitsRun) -> None:
    context = digits_run.context(0)
    assert same(initial_model(context, warm_start=True), initial_model(context, warm_start=False))


def test_context__models_of_the_round_before_and_of_this_one(digits_run: DigitsRun) -> None:
    context = digits_run.context(1)
    for model, index in ((context.current_model(), 0), (context.trained_model(), 1)):
        expected = context.model.build()
        expected.load_state_dict(digits_run.directory.round(index).weights())
        assert same(model, expected)
        assert not model.training


def test_settings_of__takes_every_field_over() -> None:
    other: dict[str, Any] = {
        "epochs": 3,
        "min_steps": 5,
        "batch_size": 7,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "momentum": 0.5,
        "weight_decay": 0.25,
        "schedule": "constant",
        "clean_weight": 0.125,
        "adversaries": "both",
        "attack": "pgd",
        "attack_steps": 9,
        "attack_label": "predicted",
        "attack_mode": "train",
        "passes": "two",
        "epsilon_warmup": 0.25,
        "grad_align": 0.5,
        "augment": "flip_shift",
        "sync_batch_norm": True,
        "steps": 11,
        "ema": 0.75,
        "precision": "bf16",
        "compile": False,
        "validation": 99,
        "on_collapse": "fail",
        "early_stop": 6,
        "checkpoint_every": 4,
    }
    assert set(other) == set(TrainingConfig.model_fields) - {"workers", "min_workers", "warm_start"}
    settings = settings_of(TrainingConfig(**other), epsilon=0.0625)
    assert asdict(settings) == {**other, "epsilon": 0.0625}
    assert settings_of(TrainingConfig(compile=True), 0.5).compile
    assert settings_of(TrainingConfig(), 0.5) == TrainSettings(
        epsilon=0.5, min_steps=TrainingConfig().min_steps
    )


@pytest.mark.parametrize(
    "field",
    [
        "optimizer",
        "schedule",
        "adversaries",
        "attack",
        "attack_label",
        "attack_mode",
        "passes",
        "augment",
        "precision",
        "on_collapse",
    ],
)
def test_settings_of__knows_the_same_names(field: str) -> None:
    ours, theirs = (get_type_hints(settings)[field] for settings in (TrainingConfig, TrainSettings))
    assert get_args(ours) == get_args(theirs)
    assert len(get_args(ours)) > 1

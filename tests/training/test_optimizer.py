from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dm2at_ray.training import TrainSettings
from dm2at_ray.training.optimizer import make_optimizer


def channels_last_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.grad = torch.empty_like(parameter).copy_(noise)
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_make_optimizer__follows_the_unfused_one(name: Any) -> None:
    settings = TrainSettings(optimizer=name, learning_rate=0.01, weight_decay=0.01)
    ours, theirs = channels_last_model(), channels_last_model()
    take_steps(ours, make_optimizer(ours, settings), 4)
    plain: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.01, "fused": False, "foreach": False}
    reference = (
        torch.optim.SGD(theirs.parameters(), momentum=0.9, nesterov=True, **plain)
        if name == "sgd"
        else torch.optim.AdamW(theirs.parameters(), **plain)
    )
    take_steps(theirs, reference, 4)
    for parameter, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_make_optimizer__state_that_was_saved_contiguous_goes_on_in_the_layout_of_its_weight(
    name: Any,
) -> None:
    settings = TrainSettings(optimizer=name, learning_rate=0.01)
    uncut = channels_last_model()
    optimizer = make_optimizer(uncut, settings)
    take_steps(uncut, optimizer, 2)
    resumed = channels_last_model()
    resumed.load_state_dict(uncut.state_dict())
    again = make_optimizer(resumed, settings)
    saved = optimizer.state_dict()
    saved["state"] = {
        number: {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
        for number, state in saved["state"].items()
    }
    again.load_state_dict(saved)
    take_steps(uncut, optimizer, 2)
    take_steps(resumed, again, 2)
    for parameter, expected in zip(resumed.parameters(), uncut.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_make_optimizer__leaves_frozen_parameters_out() -> None:
    model = channels_last_model()
    model.bias.requires_grad_(False)
    groups = make_optimizer(model, TrainSettings()).param_groups
    assert [[tuple(parameter.shape) for parameter in group["params"]] for group in groups] == [[(5, 3, 3, 3)]]

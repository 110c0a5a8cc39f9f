from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dm2at_ray.training.ema import WeightAverage


def line(weight: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def weight_of(average: WeightAverage) -> float:
    return average.model.state_dict()["weight"].item()


def test_weight_average__by_hand() -> None:
    average = WeightAverage(line(100.0), decay=0.5)
    # Steps 2 and 3 decay by 2/11 and 3/12, then by 1/2 at most (from 10/19 on).
    expected = 1.0
    average.update(line(1.0))
    assert weight_of(average) == 1.0  # what came before the first step is forgotten
    for steps, weight in enumerate([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0], start=1):
        decay = min(0.5, (1 + steps) / (10 + steps))
        expected = decay * expected + (1 - decay) * weight
        average.update(line(weight))
        assert weight_of(average) == pytest.approx(expected, rel=1e-6)
    assert (1 + steps) / (10 + steps) > 0.5


def test_weight_average__decay_0_is_the_last_step() -> None:
    average = WeightAverage(line(1.0), decay=0.0)
    for weight in (2.0, 3.0):
        average.update(line(weight))
        assert weight_of(average) == weight


def test_weight_average__goes_on_from_where_it_was() -> None:
    whole, first, second = (WeightAverage(line(0.0), decay=0.9) for _ in range(3))
    for weight in (1.0, 2.0, 3.0, 4.0):
        whole.update(line(weight))
    for weight in (1.0, 2.0):
        first.update(line(weight))
    second.load(first.model.state_dict(), 2)
    for weight in (3.0, 4.0):
        second.update(line(weight))
    assert weight_of(second) == weight_of(whole)


def test_weight_average__averages_batch_norm_and_leaves_the_model_alone(
    make_model: Callable[..., nn.Module],
) -> None:
    model = make_model(batch_norm=True).train()
    average = WeightAverage(model, decay=0.5)
    average.update(model)
    before = average.model.state_dict()["1.running_mean"].clone()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.rand(8, 1, 4, 4) + 3)
    moved = model.state_dict()["1.running_mean"].clone()
    average.update(model)
    decay = 2 / 11
    torch.testing.assert_close(
        average.model.state_dict()["1.running_mean"], decay * before + (1 - decay) * moved
    )
    assert torch.equal(model.state_dict()["0.weight"], weights["0.weight"])
    assert not average.model.training
    assert model.training

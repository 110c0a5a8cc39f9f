from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from dm2at_ray.training.schedule import learning_rate


def rates_of(scheduler: LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [4, 10, 37])
def test_learning_rate__agrees_with_torch(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    cosine = CosineAnnealingLR(optimizer, T_max=steps)
    expected = rates_of(cosine, optimizer, steps)
    assert [learning_rate("cosine", 0.4, step, steps) for step in range(steps)] == pytest.approx(expected)

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    one_cycle = OneCycleLR(optimizer, max_lr=0.4, total_steps=steps + 1, cycle_momentum=False)
    expected = rates_of(one_cycle, optimizer, steps)
    ours = [learning_rate("one_cycle", 0.4, step, steps + 1) for step in range(steps)]
    assert ours == pytest.approx(expected)


def test_learning_rate__few_steps_and_constant() -> None:
    assert learning_rate("constant", 0.4, 3, 10) == 0.4
    for total in (1, 2, 3):
        rates = [learning_rate("one_cycle", 0.4, step, total) for step in range(total)]
        assert all(0 < rate <= 0.4 for rate in rates)

from __future__ import annotations

from torch import nn

from dm2at_ray.models.modes import evaluating


def test_evaluating__restores_each_module() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    model.train()
    model[0].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dm2at_ray.training.modes import attacked_in

MakeModel = Callable[..., nn.Module]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attacked_in__leaves_no_trace(mode: str, make_model: MakeModel) -> None:
    model = make_model(batch_norm=True, dropout=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    with attacked_in(model, mode, torch.device("cpu")):  # type: ignore[arg-type]
        assert all(module.training == (mode == "train") for module in model.modules())
        model(torch.rand(3, 1, 4, 4))
        model(torch.rand(3, 1, 4, 4))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if mode == "train":  # in eval mode nothing in the model draws; torch.rand above does
        assert torch.equal(torch.get_rng_state(), generator)

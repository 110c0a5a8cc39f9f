from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.training.forward import forward


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_forward__bf16_keeps_logits_and_gradients_in_float32(model: nn.Module) -> None:
    inner: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: inner.append(output.dtype))
    logits = forward(model, IMAGES, "bf16")
    assert (inner, logits.dtype) == ([torch.bfloat16], torch.float32)
    torch.testing.assert_close(logits, forward(model, IMAGES), rtol=0.02, atol=0.02)
    logits.sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_forward__bf16_trains_after_a_pass_without_gradients(model: nn.Module) -> None:
    """Autocast keeps its casts for the length of a region, and those made without gradients lead nowhere."""
    with torch.no_grad():
        forward(model, IMAGES, "bf16")
    F.cross_entropy(forward(model, IMAGES, "bf16"), torch.zeros(5, dtype=torch.int64)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("channels_last", [False, True])
def test_forward__channels_last_where_the_model_is(model: nn.Module, channels_last: bool) -> None:
    expected = model(IMAGES)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    given: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    torch.testing.assert_close(forward(model, IMAGES), expected)
    assert given[0].is_contiguous(memory_format=torch.channels_last) == channels_last

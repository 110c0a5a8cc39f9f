"""The optimizer of a training."""

from __future__ import annotations

import torch
from torch import nn

from dm2at_ray.training.settings import TrainSettings

_FUSED_ON = {"cpu", "cuda"}


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters; its learning rate is set anew in every step.

    Fused, one kernel for all that a step does to a parameter, where torch has such kernels.

    Args:
        model: On the device that it is trained on.
        settings: Which optimizer, its peak learning rate, momentum and weight decay.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = all(
        parameter.device.type in _FUSED_ON and parameter.is_floating_point() for parameter in parameters
    )
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
        )
    else:
        optimizer = torch.optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
            fused=fused,
        )
    optimizer.register_load_state_dict_post_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Lay loaded state out as its parameter is.

    A fused kernel on the CPU goes through both by address and does not look at their strides: contiguous
    momentum of a channels-last weight would be added to other weights than its own.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

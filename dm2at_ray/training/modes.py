"""In which mode a model is attacked, and that the attack leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dm2at_ray.models.modes import evaluating
from dm2at_ray.training.settings import Mode


@contextmanager
def attacked_in(model: nn.Module, mode: Mode, device: torch.device) -> Iterator[None]:
    """Put the model into `mode` and take back afterwards what its forward passes did.

    In `train` mode an attack meets the statistics of its batch. It must not move the running ones, which
    the step's own passes do, nor advance torch's generator: so dropout draws in the pass that follows what it
    drew in the attack.

    Args:
        model: The bare model, in train mode.
        mode: `eval` or `train`.
        device: Of its parameters.
    """
    if mode == "eval":
        with evaluating(model):
            yield
        return
    with untouched_buffers(model), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def untouched_buffers(model: nn.Module) -> Iterator[None]:
    """Give buffers, such as batch norm's running statistics, the values back that they had."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)

"""Normalization as a layer, so that an epsilon in pixels means the same for every model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dm2at_ray.errors import ModelError


class Normalize(nn.Module):
    """Maps pixels in [0, 1] to ``(x - mean) / std``; the statistics are saved with the weights.

    Args:
        channels: channels C of the images.
        mean: one value for all channels, or one a channel.
        std: likewise; greater than 0.

    Raises:
        ModelError: a length is neither 1 nor ``channels``, or a value is not finite or a std not positive.

    Examples:
        >>> Normalize(1, mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to (N, C, H, W), normalized per channel."""
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """What ``print(model)`` shows between the parentheses."""
        return f"channels={len(self.mean)}"


def check_statistics(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ModelError where ``mean`` or ``std`` cannot normalize images of so many channels."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ModelError(
                f"{name} {list(values)} has {len(values)} values for images of {channels} channels; "
                f"give 1 value, or {channels}"
            )
        if not all(math.isfinite(value) for value in values):
            raise ModelError(f"{name} {list(values)} has a value that is not finite; give plain numbers")
    if min(std) <= 0:
        raise ModelError(f"std {list(std)} has a value that is not positive; give values above 0")


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    """The values as (C, 1, 1) float32."""
    check_statistics(channels, *((values, (1.0,)) if name == "mean" else ((0.0,), values)))
    per_channel = list(values) * (channels // len(values))
    return torch.tensor(per_channel, dtype=torch.float32).reshape(channels, 1, 1)

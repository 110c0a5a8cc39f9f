"""A network that trains well for a while and then gives no number any more, however often it is resumed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SOUND_PASSES = 50


class Spoils(nn.Module):
    """Counts its passes in train mode, in a buffer, and turns features into NaN after `SOUND_PASSES`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            if self.passes > SOUND_PASSES:
                return features * torch.nan
        return features


def network(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """One hidden layer on the pixels."""
    pixels = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.ReLU(), Spoils(), nn.Linear(24, num_classes))

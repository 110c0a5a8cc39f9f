"""From stored pixels to what a model takes, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [0, 1]; they travel as uint8 and become floats there."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    return pixels.float() / 255


def to_pixels(x: Tensor) -> np.ndarray:
    """float (N, C, H, W) in [0, 1] to uint8 (N, H, W, C); exact for multiples of 1/255."""
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()

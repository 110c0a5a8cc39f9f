"""Augmentation on the device: a random shift and a horizontal flip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dm2at_ray.training.settings import Augment

DRAWS = 3
"""Uniforms that one sample takes: vertical shift, horizontal shift, flip."""


def augment(images: Tensor, uniforms: Tensor, kind: Augment) -> Tensor:
    """Shift each image by up to 2 pixels (1 where a side has fewer than 16), and flip half of them.

    Args:
        images: (N, C, H, W).
        uniforms: (N, 3) in (0, 1), one row per image; the same row moves two images alike.
        kind: `none` returns the images as they are, `shift` flips none.

    Returns:
        (N, C, H, W), zeros where nothing was shifted in.

    Examples:
        >>> corner = torch.zeros(1, 1, 3, 3)
        >>> corner[0, 0, 0, 0] = 1
        >>> augment(corner, torch.tensor([[0.1, 0.1, 0.4]]), "flip_shift")[0, 0].int().tolist()
        [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    if kind == "none":
        return images
    count, channels, height, width = images.shape
    device = images.device
    reach = 2 if min(height, width) >= 16 else 1
    offsets = (uniforms[:, :2] * (2 * reach + 1)).long()  # (N, 2) in 0 ... 2 reach
    rows = torch.arange(height, device=device) + offsets[:, :1]  # (N, H)
    columns = torch.arange(width, device=device) + offsets[:, 1:]  # (N, W)
    if kind == "flip_shift":
        columns = torch.where(uniforms[:, 2:] < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (reach, reach, reach, reach))
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]

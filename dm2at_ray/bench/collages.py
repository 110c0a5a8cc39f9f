"""Any number of distinct pictures from a few real ones, each the same whatever is made beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.algorithm.counter_rng import Stream, uniform

VIEWS = 4
DRAWS = 8
MAX_ANGLE = math.radians(30)


def views(images: Tensor, sources: Tensor, draws: Tensor, size: int) -> Tensor:
    """Look at images through random windows: zoomed, turned, shifted, flipped, in another light.

    Args:
        images: (M, S, S) uint8.
        sources: (V,) int64, which image each view is of.
        draws: (V, 7) float32 in (0, 1).
        size: height and width of a view in pixels.

    Returns:
        (V, size, size) float32 in [0, 1].
    """
    zoom, angle, right, down, flip, contrast, brightness = draws.unbind(dim=1)
    zoom = 0.45 + 0.55 * zoom
    angle = MAX_ANGLE * (2 * angle - 1)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    mirror = torch.where(flip < 0.5, -1.0, 1.0)
    margin = 1 - zoom
    rows = [
        torch.stack([mirror * cosine, -sine, margin * (2 * right - 1)], dim=1),
        torch.stack([mirror * sine, cosine, margin * (2 * down - 1)], dim=1),
    ]
    windows = torch.nn.functional.affine_grid(
        torch.stack(rows, dim=1), [len(sources), 1, size, size], align_corners=False
    )
    pixels = images[sources][:, None].to(torch.float32) / 255  # (V, 1, S, S)
    seen = torch.nn.functional.grid_sample(pixels, windows, align_corners=False)[:, 0]
    gain, offset = (0.5 + contrast)[:, None, None], (0.4 * brightness - 0.2)[:, None, None]
    return (gain * seen + offset).clamp_(0, 1)


def collages(images: Tensor, ids: np.ndarray, seed: int) -> Tensor:
    """Put four random views of random images into one picture.

    Whole images, or overlapping crops of one image, would make a pool of near-duplicates, in which the
    neighbours are easy to find; a collage shares at most a quarter with another one.

    Args:
        images: (M, S, S) uint8, on any device.
        ids: (N,) int64: every collage depends on its own id and the seed only.
        seed: of the draws.

    Returns:
        (N, 1, T, T) float32 in [0, 1], T being `canvas_size(S)`.
    """
    size = canvas_size(images.shape[1]) // 2
    drawn = torch.from_numpy(uniform(seed, 0, Stream.AUGMENT, ids, VIEWS * DRAWS))
    drawn = drawn.to(device=images.device, dtype=torch.float32).view(-1, DRAWS)  # (4 N, 8)
    sources = (drawn[:, 0] * len(images)).to(torch.int64).clamp_(max=len(images) - 1)
    parts = views(images, sources, drawn[:, 1:], size).view(len(ids), 2, 2, size, size)
    # (N, row, column, y, x) to (N, row, y, column, x).
    return parts.transpose(2, 3).reshape(len(ids), 1, 2 * size, 2 * size)


def canvas_size(image_size: int) -> int:
    """Height and width of a collage: as the images, but no view is smaller than 8 pixels."""
    return 2 * max(8, image_size // 2)

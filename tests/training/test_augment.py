from __future__ import annotations

import torch
import torch.nn.functional as F

from dm2at_ray.training.augment import augment


def test_augment__shift_against_a_padded_crop() -> None:
    images = torch.rand(25, 3, 16, 17, generator=torch.Generator().manual_seed(0))
    grid = [(row, column) for row in range(5) for column in range(5)]
    uniforms = torch.tensor([[(row + 0.5) / 5, (column + 0.5) / 5, 0.1] for row, column in grid])
    moved = augment(images, uniforms, "shift")
    for image, result, (row, column) in zip(images, moved, grid, strict=True):
        assert torch.equal(result, F.pad(image, (2, 2, 2, 2))[:, row : row + 16, column : column + 17])


def test_augment__flips_half_after_no_shift() -> None:
    images = torch.rand(2, 1, 8, 8)
    uniforms = torch.tensor([[0.5, 0.5, 0.49], [0.5, 0.5, 0.51]])  # the middle of three shifts is none
    flipped, kept = augment(images, uniforms, "flip_shift")
    assert torch.equal(flipped, images[0].flip(2))
    assert torch.equal(kept, images[1])


def test_augment__none_is_the_same_tensor() -> None:
    images = torch.rand(2, 1, 8, 8)
    assert augment(images, torch.rand(2, 3), "none") is images

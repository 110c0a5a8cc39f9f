"""Pictures of views of real images."""

from __future__ import annotations

import numpy as np
import torch

from dm2at_ray.bench.collages import canvas_size, collages, views

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8))
WHOLE = [1.0, 0.5, 0.5, 0.5, 0.9, 0.5, 0.5]
"""Draws of a view that shows its image as it is: no zoom, turn, shift or flip, its own light."""


def test_views__of_the_whole_image_is_the_image() -> None:
    seen = views(IMAGES, torch.tensor([7]), torch.tensor([WHOLE]), 28)
    torch.testing.assert_close(seen[0], IMAGES[7] / 255)


def test_views__flipped_is_the_mirror_image() -> None:
    flipped = [*WHOLE[:4], 0.1, *WHOLE[5:]]
    seen = views(IMAGES, torch.tensor([7]), torch.tensor([flipped]), 28)
    torch.testing.assert_close(seen[0], IMAGES[7].flip(1) / 255)


def test_views__in_another_light() -> None:
    """Gain is 0.5 + 0.75, offset 0.4 * 0.75 - 0.2; what is brighter than white is white."""
    lit = [*WHOLE[:5], 0.75, 0.75]
    seen = views(IMAGES, torch.tensor([7]), torch.tensor([lit]), 28)
    torch.testing.assert_close(seen[0], (1.25 * IMAGES[7] / 255 + 0.1).clamp(max=1))


def test_views__zoomed_stay_inside_the_image() -> None:
    """A window half as wide, pushed to a side, shows that half and no border."""
    half = (0.5 - 0.45) / 0.55
    left = torch.tensor([[half, 0.5, 0.0, 0.0, 0.9, 0.5, 0.5]])
    seen = views(IMAGES, torch.tensor([7]), left, 14)
    torch.testing.assert_close(seen[0], IMAGES[7, :14, :14] / 255, atol=1e-4, rtol=0)


def test_collages__are_four_views_side_by_side() -> None:
    """Of black and white images, every quarter is of one gray, and all four together are rarely the same."""
    plain = torch.zeros(2, 28, 28, dtype=torch.uint8)
    plain[1] = 255
    made = collages(plain, np.arange(200), seed=0)
    assert made.shape == (200, 1, 28, 28)
    centres = made[:, 0, 3::14, 3::14]  # (200, 2, 2): a pixel inside of each quarter
    for row in range(2):
        for column in range(2):
            inside = made[:, 0, 14 * row + 5 : 14 * row + 9, 14 * column + 5 : 14 * column + 9]
            spread = inside.amax(dim=(1, 2)) - inside.amin(dim=(1, 2))
            assert (spread < 1e-5).float().mean() > 0.95
    white = centres > 0.5
    assert 0.02 < (white.sum(dim=(1, 2)) == 4).float().mean() < 0.2


def test_collages__depend_on_their_own_id_and_the_seed_only() -> None:
    together = collages(IMAGES, np.arange(100), seed=5)
    torch.testing.assert_close(collages(IMAGES, np.array([42]), seed=5)[0], together[42], rtol=0, atol=1e-6)
    assert not torch.allclose(collages(IMAGES, np.array([42]), seed=6)[0], together[42])
    distances = torch.cdist(together.flatten(1), together.flatten(1)).fill_diagonal_(torch.inf)
    assert distances.min() > 1


def test_canvas_size__has_room_for_views_of_eight_pixels() -> None:
    assert [canvas_size(size) for size in (8, 16, 28, 64)] == [16, 16, 28, 64]

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from dm2at_ray.training.draws import pixel_keys, pixel_uniforms


def test_pixel_uniforms__splitmix64_reference_vector() -> None:
    # First outputs of the reference SplitMix64 (Vigna, splitmix64.c) for seed 1234567.
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected = [((word >> 41) + 0.5) / 2**23 for word in words]
    assert pixel_uniforms(torch.tensor([1234567]), 3)[0].tolist() == expected


def test_pixel_uniforms__uniform_and_independent_of_the_batch() -> None:
    keys = torch.from_numpy(pixel_keys(3, 1, 2, np.arange(40)))
    uniforms = pixel_uniforms(keys, 500)
    assert stats.kstest(uniforms.flatten().numpy(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(uniforms[0], uniforms[1])[0, 1]) < 0.2
    assert torch.equal(pixel_uniforms(keys[7:8], 500)[0], uniforms[7])


def test_pixel_keys__differ_by_epoch_round_seed_and_sample() -> None:
    keys = [pixel_keys(*place, np.arange(5)) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len(np.unique(keys)) == 20

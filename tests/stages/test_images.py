from __future__ import annotations

import numpy as np
import torch

from dm2at_ray.stages.images import to_device, to_pixels

CPU = torch.device("cpu")


def test_images__uint8_there_and_back_is_exact() -> None:
    every_value = np.arange(256, dtype=np.uint8).reshape(2, 8, 8, 2)
    np.testing.assert_array_equal(to_pixels(to_device(every_value, CPU)), every_value)


def test_to_device__channels_first_in_0_to_1() -> None:
    pixels = np.zeros((1, 2, 3, 1), np.uint8)
    pixels[0, 1, 2, 0] = 255
    x = to_device(pixels, CPU)
    assert x.shape == (1, 1, 2, 3)
    assert x.dtype == torch.float32
    assert x[0, 0].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert x.is_contiguous()


def test_to_device__divides_as_float32_does() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = values.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(to_device(values, CPU).numpy()[:, 0], expected[..., 0])


def test_to_pixels__rounds_to_the_nearest() -> None:
    x = torch.tensor([0.0, 0.4, 0.6, 254.6]).reshape(1, 1, 2, 2) / 255
    assert to_pixels(x)[0, :, :, 0].tolist() == [[0, 0], [1, 255]]

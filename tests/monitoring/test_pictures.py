"""PNGs are read back with Pillow and compared pixel by pixel."""

import base64
import io

import numpy as np
from PIL import Image

from dm2at_ray.monitoring.pictures import Pixels, data_uri, magnification, magnified_perturbation


def pixels_of(uri: str) -> Pixels:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def gray(*values: int) -> Pixels:
    return np.array(values, np.uint8).reshape(1, -1, 1)


def test_data_uri__keeps_every_pixel_of_a_small_image() -> None:
    digits = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    np.testing.assert_array_equal(pixels_of(data_uri(digits)), digits[:, :, 0])
    color = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(pixels_of(data_uri(color)), color)


def test_data_uri__reduces_a_large_image_by_picking_pixels() -> None:
    checks = np.indices((224, 300)).sum(axis=0).astype(np.uint8)[:, :, None]
    np.testing.assert_array_equal(pixels_of(data_uri(checks)), checks[::3, ::3, 0])


def test_magnification__fills_the_range_of_gray_and_no_more() -> None:
    pairs = [(gray(10, 200), gray(18, 196)), (gray(0, 0), gray(3, 0))]
    assert magnification(pairs) == 15  # 127 / 8
    perturbation = magnified_perturbation(*pairs[0], factor=15)
    np.testing.assert_array_equal(perturbation, gray(128 + 120, 128 - 60))


def test_magnification__without_any_perturbation_is_one() -> None:
    assert magnification([]) == 1
    assert magnification([(gray(5), gray(5))]) == 1
    assert magnification([(gray(0), gray(255))]) == 1


def test_magnified_perturbation__clips_what_leaves_the_range() -> None:
    np.testing.assert_array_equal(magnified_perturbation(gray(0, 255), gray(255, 0), factor=1), gray(255, 0))

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.pool.content import content_hash, encoded, has_hash
from dm2at_ray.pool.decode import UnreadableImage


def test_content_hash__is_blake2b_of_the_bytes() -> None:
    assert content_hash(b"image").hex() == hashlib.blake2b(b"image", digest_size=16).hexdigest()


def test_content_hash__pixels_of_other_shapes_differ() -> None:
    flat = np.arange(12, dtype=np.uint8)
    assert content_hash(flat.reshape(3, 4)) != content_hash(flat.reshape(4, 3))
    assert content_hash(flat.reshape(3, 4)) == content_hash(flat.reshape(3, 4, 1))


def test_content_hash__does_not_depend_on_how_the_pixels_lie() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert content_hash(pixels) == content_hash(pixels.transpose(2, 0, 1).copy().transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 2), (3, 5, 3), (3, 5, 4)])
def test_encoded__pixels_become_a_png_without_loss(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    png = encoded(pixels)
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), pixels.squeeze(2) if shape[2:] == (1,) else pixels)
    assert has_hash(png, content_hash(pixels))


def test_encoded__keeps_encoded_bytes() -> None:
    assert encoded(b"\xff\xd8 as it is") == b"\xff\xd8 as it is"


def test_encoded__pixels_that_no_png_holds() -> None:
    with pytest.raises(UnreadableImage, match="uint8 pixels of shape"):
        encoded(np.zeros((2, 2, 5), np.uint8))


def test_has_hash__tells_other_bytes_and_other_pixels() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    digest = content_hash(pixels)
    pixels[3, 3, 2] = 1
    assert not has_hash(encoded(pixels), digest)
    assert not has_hash(b"no picture", digest)
    assert has_hash(b"no picture", content_hash(b"no picture"))

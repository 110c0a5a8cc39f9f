"""Pictures of queries as data URIs: the image, its adversarial twin, and what was added, magnified."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

MID_GRAY = 128
LONGEST_SIDE = 128

Pixels = npt.NDArray[np.uint8]


def data_uri(pixels: Pixels) -> str:
    """A uint8 image (H, W, C) with C of 1 or 3 as the data URI of a PNG.

    Small images keep their own pixels (the page enlarges them); large ones are reduced to `LONGEST_SIDE` by
    picking pixels, so that a perturbation is not averaged away.

    Examples:
        >>> data_uri(np.zeros((8, 8, 1), np.uint8))[:22]
        'data:image/png;base64,'
    """
    step = -(-max(pixels.shape[:2]) // LONGEST_SIDE)
    reduced = np.ascontiguousarray(pixels[::step, ::step])
    picture = Image.fromarray(reduced[:, :, 0] if reduced.shape[2] == 1 else reduced)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def magnification(pairs: Iterable[tuple[Pixels, Pixels]]) -> int:
    """The largest whole factor by which no perturbation among (image, twin) `pairs` leaves the range of gray.

    Examples:
        >>> magnification([(np.full((1, 1, 1), 100, np.uint8), np.full((1, 1, 1), 108, np.uint8))])
        15
    """
    largest = max((int(np.abs(_difference(*pair)).max()) for pair in pairs), default=0)
    return max(1, (255 - MID_GRAY) // largest) if largest else 1


def magnified_perturbation(image: Pixels, adversarial: Pixels, factor: int) -> Pixels:
    """``adversarial - image``, times `factor`, around mid-gray (H, W, C)."""
    return (MID_GRAY + factor * _difference(image, adversarial)).clip(0, 255).astype(np.uint8)


def _difference(image: Pixels, adversarial: Pixels) -> npt.NDArray[np.int32]:
    return adversarial.astype(np.int32) - image.astype(np.int32)

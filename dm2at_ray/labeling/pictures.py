"""Images of the pool as picture files that people's tools open."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dm2at_ray.pool import UnreadableImage
from dm2at_ray.pool.decode import FORMATS
from dm2at_ray.pool.location import one_line

SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
}
_LINKABLE = (*SUFFIXES.values(), ".jpeg", ".tiff", ".pgm", ".pnm")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


def encoded(raw: bytes | np.ndarray, size: int | None = None) -> tuple[bytes, str, int, int]:
    """An image as a file: its own bytes where it is encoded, PNG of pixels.

    Args:
        raw: Encoded bytes; or uint8 pixels (H, W) or (H, W, C).
        size: An image whose longer side is at most half of it is enlarged by a whole factor, as PNG, to at
            most so many pixels; pixels stay squares, so nothing is smoothed away.

    Returns:
        The file's bytes, its suffix by what it really is, and its width and height as it is shown.

    Raises:
        UnreadableImage: It is no image.

    Examples:
        >>> encoded(np.zeros((2, 4), np.uint8), size=10)[1:]
        ('.png', 8, 4)
    """
    try:
        if isinstance(raw, np.ndarray):
            return _enlarged(Image.fromarray(raw.squeeze(2) if raw.shape[2:] == (1,) else raw), size)
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            if size is not None and 2 * max(image.size) <= size:
                return _enlarged(image, size)
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
            return raw, SUFFIXES[image.format or ""], width, height
    except Exception as error:  # on damaged data Pillow raises almost anything
        raise UnreadableImage(one_line(error)) from error


def is_image_file(uri: str) -> bool:
    """Whether a path or URI names an image in a file of its own, and no table or archive of images."""
    return uri.lower().endswith(_LINKABLE) and ("://" in uri or Path(uri).is_file())


def _enlarged(image: Image.Image, size: int | None) -> tuple[bytes, str, int, int]:
    image = ImageOps.exif_transpose(image)
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    factor = max(1, (size or 0) // max(image.size))
    width, height = factor * image.width, factor * image.height
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue(), ".png", width, height

"""An image of the pool as browsers show it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dm2at_ray.pool.decode import UnreadableImage, opened
from dm2at_ray.pool.location import one_line

LONGEST_SIDE = 2048
"""In pixels: a larger image is scaled down to it."""
PNG, JPEG = "image/png", "image/jpeg"
_AS_THEY_ARE = {
    "JPEG": (JPEG, ("L", "RGB")),
    "MPO": (JPEG, ("L", "RGB")),
    "PNG": (PNG, ("1", "L", "LA", "P", "RGB", "RGBA")),
    "WEBP": ("image/webp", ("RGB", "RGBA")),
}
"""Formats that every browser shows, and the modes of Pillow's in which it does."""
_LOSSY = ("JPEG", "MPO", "WEBP")
_ORIENTATION = 0x0112


def browser_image(raw: bytes | np.ndarray) -> tuple[bytes, str]:
    """An image as a file that every browser shows, as the model sees it: upright, one frame, 8 bits.

    JPEG, PNG and WebP stay the bytes that they are, once they are found whole. Others (TIFF, PPM, BMP, GIF,
    four-colour JPEG, 16-bit grays, animations) and what is larger than `LONGEST_SIDE` are encoded anew:
    as JPEG where the image was lossy already and has no transparency, else as PNG.

    Args:
        raw: Encoded bytes; or uint8 pixels (H, W) or (H, W, C) with C of 1, 3 or 4.

    Returns:
        The file, and its media type.

    Raises:
        UnreadableImage: It is damaged, too large to be decoded, or no image.

    Examples:
        >>> data, media_type = browser_image(np.zeros((3, 5000), np.uint8))
        >>> media_type, Image.open(io.BytesIO(data)).size
        ('image/png', (2048, 1))
    """
    if isinstance(raw, np.ndarray):
        return _png(_scaled(_from_pixels(raw)))
    image, name = opened(raw)
    if name in _AS_THEY_ARE and max(image.size) <= LONGEST_SIDE and _is_plain(raw, name):
        return raw, _AS_THEY_ARE[name][0]
    try:
        image = _scaled(_in_screen_colors(image))
        return _jpeg(image) if name in _LOSSY and image.mode in ("L", "RGB") else _png(image)
    except Exception as error:  # of what a damaged file says of its colours
        raise UnreadableImage(one_line(error)) from error


def _is_plain(data: bytes, name: str) -> bool:
    """Whether the bytes are shown by browsers as the model sees the image."""
    with Image.open(io.BytesIO(data)) as image:
        # Of a camera's several pictures in one file, browsers show the first, as is wanted.
        moves = name != "MPO" and getattr(image, "is_animated", False)
        # Browsers turn JPEG alone for certain.
        turned = name not in ("JPEG", "MPO") and _orientation(image) not in (None, 1)
        return image.mode in _AS_THEY_ARE[name][1] and not moves and not turned


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return None


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    gray = pixels.shape[2:] == (1,)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise UnreadableImage(f"{pixels.dtype} pixels of shape {pixels.shape}, not uint8 (H, W) or (H, W, C)")
    if pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise UnreadableImage(f"{pixels.shape[2]} channels cannot be shown")
    return Image.fromarray(pixels.squeeze(2) if gray else pixels)


def _in_screen_colors(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    if max(image.size) <= LONGEST_SIDE:
        return image
    factor = LONGEST_SIDE / max(image.size)
    size = (max(1, round(factor * image.width)), max(1, round(factor * image.height)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _png(image: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue(), PNG


def _jpeg(image: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    # Full colour resolution: people are to see what there is, not what is left of it.
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue(), JPEG

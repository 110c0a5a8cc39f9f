"""Raw images (encoded bytes or pixel arrays) to uint8 arrays of one size."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from dm2at_ray.pool.location import one_line

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# A file cut behind its last pixels passes the decoders, but nobody knows what else was lost with its end.
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
# 8,192 x 8,192: a PNG with transparency that is as large takes 1.3 GiB while it is decoded and resized.
MAX_PIXELS = 1 << 26
# A progressive JPEG is drawn over and over, once a scan: encoders make about ten of them, and a file of a
# megabyte could ask for a hundred thousand over a large image.
MAX_SCANS = 100
# Resizing the shorter side of a 1 x 100,000 strip to 224 would take gigabytes for a crop of its middle.
MAX_ASPECT = 64


class UnreadableImage(Exception):  # noqa: N818 - a finding about one image, which is set aside, not a failure
    """One image cannot be read or decoded.

    Attributes:
        reason: why, in a few words on one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Raw = bytes | np.ndarray | UnreadableImage


def decode(raw: Raw, image_size: int, channels: int) -> np.ndarray:
    """Decode one image and bring it to ``image_size`` x ``image_size`` pixels and ``channels`` channels.

    Encoded bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM) are decoded by Pillow: torchvision's decoders are
    deprecated since 0.29, and its PNG decoder ends the whole process on a damaged file. An image of more than
    ``MAX_PIXELS`` pixels is refused by its header. EXIF orientation is applied, transparency is blended onto
    black, 16-bit samples keep their high byte, an animation gives its first frame. Where the size differs
    the shorter side is resized (bilinear, antialiased) and the centre cropped.

    Args:
        raw: encoded bytes; or uint8 pixels (H, W) or (H, W, C); or the finding that a source made of it.
        image_size: height and width of the result in pixels.
        channels: 1 (gray) or 3 (RGB); pixel arrays may have any number that needs no conversion.

    Returns:
        uint8 array (image_size, image_size, channels).

    Raises:
        UnreadableImage: the image is empty, truncated, damaged, too large, or of an unknown kind.

    Examples:
        >>> decode(np.array([[0, 255], [255, 0]], dtype=np.uint8), image_size=2, channels=3)[0, 1]
        array([255, 255, 255], dtype=uint8)
    """
    return _fit(_whole(raw, channels), image_size)


def require_readable(raw: Raw, channels: int) -> None:
    """Raise what `decode` would, to whatever size: the image is decoded, but not resized.

    Args:
        raw: As `decode` takes it.
        channels: 1 (gray) or 3 (RGB).

    Raises:
        UnreadableImage: As `decode` does.
    """
    _refuse_narrow(_whole(raw, channels))


def _whole(raw: Raw, channels: int) -> np.ndarray:
    if isinstance(raw, UnreadableImage):
        raise raw
    return _from_array(raw, channels) if isinstance(raw, np.ndarray) else _from_bytes(raw, channels)


def opened(data: bytes) -> tuple[Image.Image, str]:
    """Decode a whole image: upright, of 8 bits a channel, in a mode of Pillow's that is left as it is.

    Args:
        data: encoded bytes.

    Returns:
        The image, an animation's first frame, and the name of its format, one of ``FORMATS`` or MPO.

    Raises:
        UnreadableImage: as `decode` does.
    """
    if not data:
        raise UnreadableImage("empty file")
    try:
        # The list of formats keeps out those that Pillow hands to other programs (EPS).
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            name = image.format or ""
            if _END_MARKS.get(name, b"") not in data:
                raise UnreadableImage(f"truncated {name}")
            _refuse_bomb(image, data)
            image.load()
            return _to_8_bits(_upright(image), name), name
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"more than the {MAX_PIXELS:,} pixels that are decoded") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage("not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image") from error
    except Exception as error:  # on damaged data Pillow's decoders raise almost anything
        raise UnreadableImage(one_line(error)) from error


def _from_bytes(data: bytes, channels: int) -> np.ndarray:
    image, _ = opened(data)
    try:
        return _convert(image, channels)
    except UnreadableImage:
        raise
    except Exception as error:  # of what a damaged file says of its colours
        raise UnreadableImage(one_line(error)) from error


def _refuse_bomb(image: Image.Image, data: bytes) -> None:
    """Refuse, by its header alone, a small file that would take all memory or time."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
        raise UnreadableImage(f"a JPEG of more than {MAX_SCANS} scans")


def _to_8_bits(image: Image.Image, source_format: str | None) -> Image.Image:
    # Pillow itself keeps the high byte of 16-bit colours, but hands on 16-bit grays as they are.
    if image.mode.startswith("I;16") or (image.mode == "I" and source_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImage("32-bit pixels have no defined range; convert to 8 or 16 bits")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return image


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    if channels not in (1, 3):
        raise UnreadableImage(f"{image.mode} pixels cannot become {channels} channels")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))  # convert always copies
    return pixels.reshape(*pixels.shape[:2], channels)


def _from_array(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise UnreadableImage(f"{pixels.dtype} pixels of shape {pixels.shape}, not uint8 (H, W) or (H, W, C)")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == channels:
        return pixels
    if pixels.shape[2] > 4:
        raise UnreadableImage(f"{pixels.shape[2]} channels cannot become {channels}")
    return _convert(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), channels)


def _fit(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    _refuse_narrow(pixels)
    # Imported late: torchvision takes seconds, and images of the right size never need it.
    import torch
    from torchvision.transforms.v2 import functional

    image = torch.tensor(pixels).permute(2, 0, 1)  # (C, H, W); a copy, because decoded pixels are read-only
    image = functional.resize(image, [size], antialias=True)
    image = functional.center_crop(image, [size, size])
    return image.permute(1, 2, 0).contiguous().numpy()


def _refuse_narrow(pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(f"{width} x {height} pixels: too narrow to be resized")

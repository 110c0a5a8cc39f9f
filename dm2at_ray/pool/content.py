"""What an image is as content: its hash, and the encoded bytes that a pool keeps of it."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from dm2at_ray.pool.decode import UnreadableImage

HASH_BYTES = 16


def content_hash(raw: bytes | np.ndarray) -> bytes:
    """BLAKE2b of 128 bits of encoded bytes, or of uint8 pixels (H, W) or (H, W, C) with their shape.

    Images are told apart by what the source has: the same pixels in a PNG and in an array are two.

    Examples:
        >>> gray = np.zeros((2, 3), np.uint8)
        >>> content_hash(gray) == content_hash(gray[:, :, None]), content_hash(gray) == content_hash(gray.T)
        (True, False)
    """
    if isinstance(raw, bytes):
        return hashlib.blake2b(raw, digest_size=HASH_BYTES).digest()
    pixels = _three_dimensional(raw)
    digest = hashlib.blake2b(f"{pixels.dtype.name}{pixels.shape}".encode(), digest_size=HASH_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def has_hash(image: bytes, expected: bytes) -> bool:
    """Whether an image of a shard is what was hashed: the very bytes, or the pixels that became this PNG."""
    if content_hash(image) == expected:
        return True
    try:
        with Image.open(io.BytesIO(image), formats=("PNG",)) as png:
            return content_hash(np.asarray(png)) == expected
    except Exception:  # on damaged data Pillow's decoders raise almost anything
        return False


def encoded(raw: bytes | np.ndarray) -> bytes:
    """The bytes that are kept: encoded ones as they are, uint8 pixels (H, W) or (H, W, C <= 4) as a PNG.

    Raises:
        UnreadableImage: Pixels that no PNG can hold.
    """
    if isinstance(raw, bytes):
        return raw
    pixels = _three_dimensional(raw)
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 2, 3, 4):
        raise UnreadableImage(
            f"{pixels.dtype} pixels of shape {raw.shape}: a PNG holds uint8, 1 to 4 channels"
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _three_dimensional(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, None] if pixels.ndim == 2 else pixels

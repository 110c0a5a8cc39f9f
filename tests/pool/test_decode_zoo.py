"""What cameras, scanners and enemies hand in: orientations, pixel types, bombs, and damage at every place."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.pool import UnreadableImage, decode

from .conftest import encode, pattern

UPRIGHT = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
# EXIF 2.32, tag 0x0112: which side of the scene row 0 and column 0 of the stored pixels are.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda u: u,  # top, left
    2: lambda u: u[:, ::-1],  # top, right
    3: lambda u: u[::-1, ::-1],  # bottom, right
    4: lambda u: u[::-1],  # bottom, left
    5: lambda u: u.transpose(1, 0, 2),  # left, top
    6: lambda u: u[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda u: u[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda u: u[::-1].transpose(1, 0, 2),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_decode__all_orientations(orientation: int, file_format: str, options: dict[str, bool]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(np.ascontiguousarray(STORED[orientation](UPRIGHT)), file_format, exif=exif, **options)
    np.testing.assert_array_equal(decode(data, 8, 3), UPRIGHT)


@pytest.mark.parametrize("orientation", STORED)
def test_decode__all_orientations_of_a_jpeg(orientation: int) -> None:
    upright = np.kron(np.array([[255, 0], [80, 160]], np.uint8), np.ones((8, 8), np.uint8))[:, :, None]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright)[:, :, 0])
    decoded = decode(encode(stored, "JPEG", exif=exif, quality=95), 16, 1)
    np.testing.assert_allclose(decoded, upright, atol=6)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(samples: np.ndarray, color_type: int, bits: int = 16, extra: bytes = b"") -> bytes:
    """A PNG by its specification, for pixel types that Pillow does not write."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(raw)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


DEEP = np.random.default_rng(1).integers(0, 65_536, (4, 4, 4))


@pytest.mark.parametrize(("color_type", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_decode__sixteen_bit_png_keeps_its_high_bytes(color_type: int, samples: int) -> None:
    deep = DEEP[:, :, :samples].copy()
    if samples in (2, 4):
        deep[:, :, -1] = 65_535  # opaque
    high = deep >> 8
    expected = high[:, :, :3] if samples > 2 else np.repeat(high[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(decode(_png(deep, color_type), 4, 3), expected)


def test_decode__sixteen_bit_alpha_is_blended_onto_black() -> None:
    deep = DEEP.copy()
    expected = deep[:, :, :3] * (deep[:, :, 3:] / 65_535) / 257
    np.testing.assert_allclose(decode(_png(deep, 6), 4, 3), expected, atol=2)


def test_decode__gray_and_colour_png_with_a_transparent_value() -> None:
    gray = np.array([[7, 200], [200, 7]], np.uint8)
    transparent = _chunk(b"tRNS", struct.pack(">H", 200))
    np.testing.assert_array_equal(decode(_png(gray, 0, 8, transparent), 2, 1)[:, :, 0], [[7, 0], [0, 7]])
    rgb = np.array([[[1, 2, 3], [9, 9, 9]], [[9, 9, 9], [4, 5, 6]]], np.uint8)
    transparent = _chunk(b"tRNS", struct.pack(">HHH", 9, 9, 9))
    expected = np.where(rgb == 9, 0, rgb)
    np.testing.assert_array_equal(decode(_png(rgb, 2, 8, transparent), 2, 3), expected)


def test_decode__palette_whose_colors_have_an_alpha_each() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.putpixel((1, 0), 1)
    data = encode(image.resize((2, 2)), "PNG", transparency=bytes([128, 255]))
    np.testing.assert_allclose(decode(data, 2, 3)[0], [[100, 50, 25], [10, 20, 30]], atol=1)


def test_decode__black_and_white() -> None:
    image = Image.fromarray(np.eye(8, dtype=bool))
    for file_format in ("PNG", "TIFF", "BMP", "PPM"):
        decoded = decode(encode(image, file_format), 8, 1)[:, :, 0]
        np.testing.assert_array_equal(decoded, np.eye(8) * 255)


def _adobe_jpeg(stored: tuple[int, int, int, int], transform: int) -> bytes:
    """A CMYK JPEG whose samples are these as they lie in the file, under Adobe's marker."""
    pixel = tuple(255 - sample for sample in stored)  # Pillow writes complements, as Adobe does
    data = bytearray(encode(Image.new("CMYK", (16, 16), pixel), "JPEG", quality=100, subsampling=0))
    marker = data.index(b"\xff\xee\x00\x0eAdobe")
    assert data[marker + 15] == 0
    data[marker + 15] = transform
    return bytes(data)


@pytest.mark.parametrize(
    ("stored", "transform", "rgb"),
    [
        ((255, 0, 0, 255), 0, (255, 0, 0)),  # complements: no cyan, full magenta and yellow, no black
        ((255, 255, 255, 0), 0, (0, 0, 0)),
        ((255, 255, 255, 255), 0, (255, 255, 255)),
        # The same red as YCCK: Y, Cb, Cr of what is 255 minus the first three, by JFIF's equations.
        ((179, 171, 0, 255), 2, (255, 0, 0)),
    ],
)
def test_decode__cmyk_and_ycck_as_adobe_writes_them(
    stored: tuple[int, int, int, int], transform: int, rgb: tuple[int, int, int]
) -> None:
    np.testing.assert_allclose(decode(_adobe_jpeg(stored, transform), 16, 3)[8, 8], rgb, atol=4)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_decode__first_frame_of_many(file_format: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime"))
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(first, file_format, save_all=True, append_images=others, **options)
    np.testing.assert_array_equal(decode(data, 8, 3)[4, 4], [255, 0, 0])


def _bombs() -> dict[str, bytes]:
    """Small files that say they are vast."""
    ihdr = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(1 << 24), 9)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", ihdr) + _chunk(b"IDAT", zeros) + _chunk(b"IEND", b"")
    small_png = _png(
        pattern(0, 8), 2, 8, _chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(200 << 20), 9))
    )
    jpeg = bytearray(encode(pattern(0), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    gif = bytearray(encode(pattern(0), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    bmp = bytearray(encode(pattern(0), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    tiff = bytearray(encode(pattern(0), "TIFF"))
    for tag in (256, 257):
        place = tiff.index(
            struct.pack("<HH", tag, 4) if struct.pack("<HH", tag, 4) in tiff else struct.pack("<HH", tag, 3)
        )
        tiff[place + 2 : place + 12] = struct.pack("<HII", 4, 1, 60_000)
    webp = bytearray(encode(pattern(0), "WEBP", lossless=True))
    place = webp.index(b"VP8L") + 9
    webp[place : place + 4] = b"\xff\xff\xff\x0f"
    ppm = b"P6 60000 60000 255\n" + bytes(1_000)
    progressive = encode(Image.new("L", (4096, 4096)), "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    scans = progressive[:-2] + last_scan * 20_000 + b"\xff\xd9"
    return {
        "png": png,
        "png that could be decoded": encode(Image.new("1", (9_000, 9_000)), "PNG"),
        "png text": small_png,
        "jpeg": bytes(jpeg),
        "jpeg scans": scans,
        "gif": bytes(gif),
        "bmp": bytes(bmp),
        "tiff": bytes(tiff),
        "webp": bytes(webp),
        "ppm": ppm,
    }


BOMBS = _bombs()
_DEFUSE = """
import json, resource, sys, time
from pathlib import Path
from dm2at_ray.pool import UnreadableImage, decode
import dm2at_ray.pool.decode, PIL.Image, numpy
PIL.Image.init()
report = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        reason = str(decode(data, 16, 3).shape)
    except UnreadableImage as unreadable:
        reason = unreadable.reason
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report[path.name] = [reason, (after - before) * 1024, time.monotonic() - began]
print(json.dumps(report))
"""


def test_decode__bombs_take_neither_memory_nor_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bombs")
    for name, data in BOMBS.items():
        assert len(data) < 3 << 20
        (folder / name).write_bytes(data)
    command = [sys.executable, "-W", "ignore", "-c", _DEFUSE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    report = json.loads(done.stdout)
    assert report.keys() == BOMBS.keys()
    for name, (reason, grown_bytes, seconds) in report.items():
        assert any(word in reason for word in ("pixels", "scans", "too large", "Decompressed data")), (
            name,
            reason,
        )
        assert grown_bytes < 64 << 20, (name, grown_bytes)
        assert seconds < 1, (name, seconds)


def test_decode__as_many_pixels_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(pattern(0), "PNG")
    monkeypatch.setattr(sys.modules[decode.__module__], "MAX_PIXELS", 16 * 16)
    assert decode(data, 16, 3).shape == (16, 16, 3)
    monkeypatch.setattr(sys.modules[decode.__module__], "MAX_PIXELS", 16 * 16 - 1)
    with pytest.raises(UnreadableImage, match="16 x 16 pixels are more than the 255 that are decoded"):
        decode(data, 16, 3)


NOISE = np.random.default_rng(2).integers(0, 256, (24, 24, 3)).astype(np.uint8)
WHOLE = {name: encode(NOISE, name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")}
WHOLE["progressive JPEG"] = encode(NOISE, "JPEG", progressive=True)
WHOLE["lossless WEBP"] = encode(NOISE, "WEBP", lossless=True)
WHOLE["compressed TIFF"] = encode(NOISE, "TIFF", compression="tiff_lzw")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("name", WHOLE)
def test_decode__cut_at_every_place(name: str) -> None:
    data = WHOLE[name]
    decode(data, 24, 3)
    passed = []
    for length in range(0, len(data), max(1, len(data) // 150)):
        try:
            decode(data[:length], 24, 3)
        except UnreadableImage:
            continue
        passed.append(length)
    # All pixels are there once nothing but a trailer is missing (GIF's last byte, a TIFF's padding).
    assert all(length > 0.97 * len(data) for length in passed), passed


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_decode__damage_anywhere_gives_an_image_or_a_reason(name: str) -> None:
    rng = np.random.default_rng(3)
    began, reasons = time.monotonic(), []
    for _ in range(200):
        data = bytearray(WHOLE[name])
        for place in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(data), 24, 3).shape == (24, 24, 3)
        except UnreadableImage as unreadable:
            reasons.append(unreadable.reason)
    assert reasons
    assert all(0 < len(reason) <= 160 for reason in reasons)
    assert time.monotonic() - began < 20


def test_decode__what_only_claims_to_be_an_image() -> None:
    for data in (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"P6",
    ):
        with pytest.raises(UnreadableImage):
            decode(data, 8, 3)

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dm2at_ray.pool import UnreadableImage, decode

from .conftest import encode, pattern

GRAY = pattern(1, channels=1)
RGB = pattern(2)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_decode__lossless_formats_give_back_the_pixels(file_format: str) -> None:
    decoded = decode(encode(RGB, file_format), 16, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


def test_decode__lossless_webp_gives_back_the_pixels() -> None:
    np.testing.assert_array_equal(decode(encode(RGB, "WEBP", lossless=True), 16, 3), RGB)


def test_decode__jpeg_is_near_the_pixels() -> None:
    decoded = decode(encode(RGB, "JPEG", quality=95, subsampling=0), 16, 3)
    assert np.abs(decoded.astype(int) - RGB).max() <= 6


def test_decode__animated_gif_gives_its_first_frame() -> None:
    first, second = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    data = encode(first, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(data, 4, 3)[0, 0], [255, 0, 0])


def test_decode__gray_becomes_three_equal_channels() -> None:
    decoded = decode(encode(GRAY, "PNG"), 16, 3)
    np.testing.assert_array_equal(decoded, np.repeat(GRAY[:, :, None], 3, axis=2))


def test_decode__rgb_becomes_its_luma() -> None:
    expected = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    decoded = decode(encode(RGB, "PNG"), 16, 1)
    assert decoded.shape == (16, 16, 1)
    np.testing.assert_allclose(decoded[:, :, 0], expected, atol=0.51)


def test_decode__sixteen_bit_grays_keep_their_high_byte() -> None:
    deep = np.array([[0, 255, 256, 65535]] * 4, dtype=np.uint16)
    np.testing.assert_array_equal(decode(encode(deep, "PNG"), 4, 1)[0, :, 0], [0, 0, 1, 255])


def test_decode__cmyk_jpeg_becomes_rgb() -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)  # magenta + yellow = red
    np.testing.assert_allclose(decode(data, 8, 3)[4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize(("mode", "pixel"), [("RGBA", (200, 100, 50, 128)), ("LA", (200, 128))])
def test_decode__transparency_is_blended_onto_black(mode: str, pixel: tuple[int, ...]) -> None:
    decoded = decode(encode(Image.new(mode, (4, 4), pixel), "PNG"), 4, 3)
    color = pixel[:3] if mode == "RGBA" else (200, 200, 200)
    np.testing.assert_allclose(decoded[0, 0], np.array(color) * 128 / 255, atol=1)


def test_decode__palette_with_a_transparent_color() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 255, 255, 0, 0, 255])
    image.putpixel((1, 0), 1)
    decoded = decode(encode(image.resize((2, 2)), "PNG", transparency=0), 2, 3)
    np.testing.assert_array_equal(decoded[0], [[0, 0, 0], [0, 0, 255]])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_decode__exif_orientation_is_applied(file_format: str) -> None:
    left_is_white = np.zeros((8, 8), dtype=np.uint8)
    left_is_white[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left side comes on top
    decoded = decode(encode(Image.fromarray(left_is_white).convert("RGB"), file_format, exif=exif), 8, 1)
    assert decoded[0].min() > 200
    assert decoded[-1].max() < 50


def test_decode__sixteen_bit_png_with_exif_orientation() -> None:
    deep = np.array([[65535, 0], [65535, 0]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode(encode(deep, "PNG", exif=exif), 2, 1)[:, :, 0], [[255, 255], [0, 0]])


def test_decode__other_sizes_are_resized_and_cropped_as_torchvision_does() -> None:
    wide = np.asarray(Image.fromarray(pattern(3, size=48)).crop((0, 8, 48, 40)))  # (32, 48, 3)
    transform = v2.Compose([v2.Resize(10, antialias=True), v2.CenterCrop(10)])
    expected = transform(torch.tensor(wide).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decode(encode(wide, "PNG"), 10, 3), expected)
    np.testing.assert_array_equal(decode(wide, 10, 3), expected)


def test_decode__arrays_with_and_without_a_channel_axis() -> None:
    np.testing.assert_array_equal(decode(GRAY, 16, 1)[:, :, 0], GRAY)
    np.testing.assert_array_equal(decode(GRAY[:, :, None], 16, 3), np.repeat(GRAY[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(decode(RGB, 16, 3), RGB)


def _zoo() -> dict[str, tuple[bytes | np.ndarray, str]]:
    """What is broken, and a word that its reason must hold."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    jpeg, png, webp = (encode(noise, name) for name in ("JPEG", "PNG", "WEBP"))
    zoo: dict[str, tuple[bytes | np.ndarray, str]] = {
        "empty": (b"", "empty"),
        "text": (b"this is no picture\n" * 20, "not a JPEG"),
        "html": (b"<!DOCTYPE html><html>404</html>", "not a JPEG"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not a JPEG"),
        "jpeg without its end marker": (jpeg[:-2], "truncated"),
        "png without its end chunk": (png[:-12], "truncated"),
        "png damaged in the middle": (png[:900] + b"zzzz" + png[904:], "broken"),
        "png with a damaged header": (png[:16] + b"zz" + png[18:], "not a JPEG"),
        "float pixels": (np.zeros((4, 4), dtype=np.float32), "float32"),
        "no pixels": (np.zeros((0, 4), dtype=np.uint8), "shape"),
        "five channels": (np.zeros((4, 4, 5), dtype=np.uint8), "channels"),
        "strip": (np.zeros((1, 1000, 3), dtype=np.uint8), "narrow"),
        "32-bit tiff": (encode(Image.new("F", (4, 4)), "TIFF"), "32-bit"),
    }
    whole = {"jpeg": jpeg, "png": png, "webp": webp, "gif": encode(noise, "GIF"), "bmp": encode(noise, "BMP")}
    whole |= {"tiff": encode(noise, "TIFF"), "ppm": encode(noise, "PPM")}
    for name, data in whole.items():
        for share in (0.1, 0.5, 0.9):
            zoo[f"{name} cut at {share}"] = (data[: int(len(data) * share)], "")
    return zoo


ZOO = _zoo()


@pytest.mark.parametrize("name", ZOO)
def test_decode__unreadable_says_why_on_one_short_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    raw, word = ZOO[name]
    with pytest.raises(UnreadableImage) as caught:
        decode(raw, 16, 3)
    assert word in caught.value.reason
    assert 0 < len(caught.value.reason) <= 160
    assert "\n" not in caught.value.reason
    assert " at 0x" not in caught.value.reason, "addresses differ from run to run"
    assert capfd.readouterr().err == "", "the C libraries stay quiet"


def test_decode__finding_of_a_source_is_passed_on() -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode(UnreadableImage("no such file"), 16, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_decode__damaged_exif_does_not_reject_the_image() -> None:
    data = encode(RGB, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, 16, 3), RGB)

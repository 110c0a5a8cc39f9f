"""Pictures of what a round shows: from every kind of source, for browsers, and from nowhere else."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dm2at_ray.labeling import export_queries
from dm2at_ray.labeling.export import ExportSettings
from dm2at_ray.pool import Source, open_source
from dm2at_ray.service import pictures as module
from dm2at_ray.service.pictures import Pictures
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_column

from .conftest import ask, encode, make_run, pixels_of

OpenPictures = Callable[..., Pictures]


def photo(seed: int, shape: tuple[int, ...] = (12, 10, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refused(kind: str) -> Any:
    return pytest.raises(ProblemError, check=lambda error: error.kind == kind)


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "photos"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder_run(tmp_path: Path) -> tuple[RunDirectory, Path]:
    """A run on six PNG files; its round asks for 1 and 4, beside the labeled 0."""
    folder = folder_of(tmp_path, {f"{n % 2}/{n}.png": encode(photo(n), "PNG") for n in range(6)})
    data = {"source": "image_folder", "path": str(folder)}
    return make_run(str(tmp_path / "runs/folder"), data, [1, 4], {1: [0]}), folder


def file_of(run: RunDirectory, sample_id: int) -> Path:
    return Path(pq.read_table(Path(run.uri) / "pool/manifest/part-00000.parquet")["uri"][sample_id].as_py())


# --- what browsers are given --------------------------------------------------------------------------------


def test_picture__files_that_browsers_show_stay_as_they_are(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    files = {
        "a.png": encode(photo(1), "PNG"),
        "b.jpg": encode(photo(2), "JPEG"),
        "c.webp": encode(photo(3), "WEBP", lossless=True),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, [0, 1, 2], {})
    pictures = open_pictures([folder])
    found = [pictures.picture(run, sample) for sample in range(3)]
    assert [each.data for each in found] == list(files.values())
    assert [each.media_type for each in found] == ["image/png", "image/jpeg", "image/webp"]
    assert len({each.etag for each in found}) == 3


def test_picture__what_browsers_do_not_show_is_encoded_anew(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    deep = (photo(3, (12, 10)).astype(np.uint16) << 8) + 7
    files = {
        "a.tif": encode(photo(1), "TIFF", compression="tiff_lzw"),
        "b.bmp": encode(photo(2), "BMP"),
        "c.png": encode(Image.fromarray(deep), "PNG"),
        "d.ppm": encode(photo(4), "PPM"),
        "e.jpg": encode(Image.fromarray(photo(5)).convert("CMYK"), "JPEG", quality=100, subsampling=0),
        "f.gif": encode(
            Image.new("L", (12, 10), 30), "GIF", save_all=True, append_images=[Image.new("L", (12, 10), 200)]
        ),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, list(range(6)), {})
    pictures = open_pictures([folder])
    found = {name: pictures.picture(run, sample) for sample, name in enumerate(files)}
    assert [each.media_type for each in found.values()] == ["image/png"] * 4 + ["image/jpeg", "image/png"]
    for name, expected in (("a.tif", photo(1)), ("b.bmp", photo(2)), ("d.ppm", photo(4))):
        np.testing.assert_array_equal(pixels_of(found[name].data), expected)
    np.testing.assert_array_equal(pixels_of(found["c.png"].data), photo(3, (12, 10)))
    # Ink that is taken for light would be off by a hundred.
    near = np.abs(pixels_of(found["e.jpg"].data).astype(int) - photo(5)).mean()
    assert near < 12
    assert Image.open(io.BytesIO(found["e.jpg"].data)).mode == "RGB"
    first_frame = Image.open(io.BytesIO(found["f.gif"].data))
    assert getattr(first_frame, "n_frames", 1) == 1
    assert np.asarray(first_frame.convert("L"))[0, 0] == 30


def test_picture__huge_ones_are_scaled_down_and_turned_ones_stand_upright(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.png": encode(Image.new("RGB", (5000, 100), (10, 200, 30)), "PNG"),
        "b.jpg": encode(Image.new("RGB", (3000, 2500), (10, 200, 30)), "JPEG"),
        "c.jpg": encode(Image.new("RGB", (30, 20)), "JPEG", exif=exif),
        "d.png": encode(Image.new("RGB", (30, 20)), "PNG", exif=exif),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, list(range(4)), {})
    pictures = open_pictures([folder])
    wide, tall, turned, turned_png = (pictures.picture(run, sample) for sample in range(4))
    assert (wide.media_type, Image.open(io.BytesIO(wide.data)).size) == ("image/png", (2048, 41))
    assert (tall.media_type, Image.open(io.BytesIO(tall.data)).size) == ("image/jpeg", (2048, 1707))
    assert tuple(pixels_of(wide.data)[20, 1000]) == (10, 200, 30)
    # Every browser turns a JPEG by itself; of a PNG that is not certain.
    assert turned.data == files["c.jpg"]
    assert Image.open(io.BytesIO(turned_png.data)).size == (20, 30)


def test_picture__damaged_gone_or_another_image_than_was_listed(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures
) -> None:
    run, folder = folder_run
    pictures = open_pictures([folder])
    path = file_of(run, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused("unreadable-image"):
        pictures.picture(run, 1)
    path.write_bytes(encode(photo(99), "PNG"))
    with refused("unreadable-image") as another:
        pictures.picture(run, 1)
    assert "another image" in str(another.value)
    path.unlink()
    with refused("unreadable-image"):
        pictures.picture(run, 1)
    path.write_bytes(whole)
    assert pictures.picture(run, 1).data == whole


# --- every kind of source -----------------------------------------------------------------------------------


def parquet_source(folder: Path) -> dict[str, Any]:
    images = [encode(photo(n), "PNG") for n in range(6)]
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 3}), folder / "a.parquet", row_group_size=2)
    return {"source": "parquet", "path": str(folder / "a.parquet")}


def pixel_source(folder: Path) -> dict[str, Any]:
    images = tensor_column(np.stack([photo(n) for n in range(6)]))
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 3}), folder / "a.parquet")
    return {"source": "parquet", "path": str(folder)}


def tar_source(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for n in range(6):
            for name, data in ((f"{n}.png", encode(photo(n), "PNG")), (f"{n}.cls", str(n % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {"source": "tar", "path": str(folder)}


def list_source(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.png").write_bytes(encode(photo(n), "PNG"))
    lines = [f"{n}.png,{n % 2}" for n in range(6)]
    (folder / "list.csv").write_text("\n".join(["uri,label", *lines]) + "\n", encoding="utf-8")
    return {"source": "list", "path": str(folder / "list.csv"), "test_fraction": 0.01}


@pytest.mark.parametrize("make", [parquet_source, pixel_source, tar_source, list_source])
def test_picture__of_every_kind_of_source(
    tmp_path: Path, open_pictures: OpenPictures, make: Callable[[Path], dict[str, Any]]
) -> None:
    data = make(tmp_path / "data")
    run = make_run(str(tmp_path / "run"), data, [0, 2, 3], {})
    pictures = open_pictures([tmp_path / "data"])
    manifest = pq.read_table(tmp_path / "run/pool/manifest/part-00000.parquet")
    for sample in (0, 2, 3):
        original = manifest["row"][sample].as_py()
        np.testing.assert_array_equal(pixels_of(pictures.picture(run, sample).data), photo(original))
    with refused("outside-roots"):
        open_pictures([tmp_path / "elsewhere"]).picture(run, 0)


def idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_picture__of_idx_files(tmp_path: Path, open_pictures: OpenPictures) -> None:
    folder = tmp_path / "fashion"
    folder.mkdir()
    images = photo(0, (5, 28, 28))
    for stem in ("train", "t10k"):
        idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(5, dtype=np.uint8))
    run = make_run(str(tmp_path / "run"), {"source": "fashion_mnist", "path": str(folder)}, [4], {4: [2]})
    pictures = open_pictures([folder])
    for sample in (4, 2):
        np.testing.assert_array_equal(pixels_of(pictures.picture(run, sample).data), images[sample])

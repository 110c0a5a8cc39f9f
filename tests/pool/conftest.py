"""Small pools on disk, and where the real Fashion-MNIST lies."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dm2at_ray.pool import Manifest, Source, check_part, part_name

FASHION_MNIST_DIR = os.environ.get("FASHION_MNIST_DIR", "/usr/share/datasets/fashion-mnist")


def pattern(seed: int, size: int = 16, channels: int = 3) -> np.ndarray:
    """A smooth image, kind to JPEG: uint8 (size, size, channels), or (size, size) for one channel."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, channels)).astype(np.uint8).squeeze()
    return np.asarray(Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR))


def encode(image: np.ndarray | Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file of uint8, gzipped where its name says so."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    data = header + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def fashion_mnist_dir() -> str:
    if not Path(FASHION_MNIST_DIR).is_dir():
        pytest.skip("Fashion-MNIST is not there; name its folder in FASHION_MNIST_DIR")
    return FASHION_MNIST_DIR


@pytest.fixture
def build_manifest(tmp_path: Path) -> Callable[..., Manifest]:
    """Check a source's pool part by part into ``tmp_path/manifest``, and open that."""

    def build(source: Source, image_size: int, channels: int) -> Manifest:
        directory = tmp_path / "manifest"
        directory.mkdir()
        first_id = 0
        for index, table in enumerate(source.tables("pool")):
            part = check_part(source, table, first_id, image_size, channels)
            pq.write_table(part, directory / part_name(index))
            first_id += table.num_rows
        return Manifest.from_uri(str(directory))

    return build

"""A pool of any size to measure with: small colour pictures of ten classes, as JPEG in Parquet."""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dm2at_ray.algorithm.counter_rng import Stream, uniform

SIZE = 32
CLASSES = (
    "disc",
    "ring",
    "square",
    "frame",
    "diamond",
    "plus",
    "cross",
    "rows",
    "columns",
    "triangle",
)

SHARD_ROWS = 65_536
GROUP_ROWS = 4096
"""Rows of a row group: about 4 MiB."""
TEST_IMAGES = 2000
FIRST_TEST_ID = 1 << 40
"""Pool and test set are drawn by one rule: no pool reaches the ids of the test images."""

MADE = "made.json"

_QUALITY = 80
_COARSE, _FINE = 5, 6
_TEXTURE = 3 * _COARSE * _COARSE
_GRAIN = _FINE * _FINE
_DRAWS = _TEXTURE + _GRAIN + 8


class Pictures(NamedTuple):
    """Pixels (N, 32, 32, 3) uint8 and labels (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray


def draw_pictures(ids: np.ndarray, seed: int) -> Pictures:
    """Draw pictures: a smooth random texture, and on it a shape of the class in a random place and colour.

    Args:
        ids: (N,) int64: every picture depends on its own id and the seed only.
        seed: of the draws.
    """
    drawn = uniform(seed, 0, Stream.AUGMENT, ids, _DRAWS).astype(np.float32)
    texture, grain, rest = np.split(drawn, [_TEXTURE, _TEXTURE + _GRAIN], axis=1)
    labels = (rest[:, 0] * len(CLASSES)).astype(np.int64)
    # The shapes stand out from it: a network learns them from some thousand pictures.
    pixels = 0.25 + 0.5 * _smooth(texture.reshape(-1, _COARSE, _COARSE, 3))
    pixels += 0.25 * (_smooth(grain.reshape(-1, _FINE, _FINE, 1)) - 0.5)
    right, down, size, *colour, strength = rest[:, 1:].T[:, :, None, None]
    places = np.linspace(-1, 1, SIZE, dtype=np.float32)
    size = 0.4 + 0.4 * size
    x = (places[None, None, :] - 0.5 * (2 * right - 1)) / size
    y = (places[None, :, None] - 0.5 * (2 * down - 1)) / size
    inside = _shapes(x, y, labels)[..., None] * (0.7 + 0.3 * strength[..., None])
    # Light or dark, so that it is never as the middle of the texture.
    light = np.stack(colour, axis=-1)
    pixels += inside * (np.where(light[..., :1] < 0.5, 0.4 * light, 1 - 0.4 * light) - pixels)
    return Pictures((255 * pixels.clip(0, 1)).round().astype(np.uint8), labels)


def make_pool(
    directory: Path, n: int, seed: int, workers: int, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write `directory/pool` with n images and `directory/test`, a shard at a time on each of the workers.

    What an earlier call with the same n and seed has finished is left as it is.

    Args:
        directory: where; must exist.
        n: images of the pool.
        seed: of the pictures.
        workers: processes.
        progress: told a line now and then.
    """
    made = {"n": n, "seed": seed, "test": TEST_IMAGES}
    mark = directory / MADE
    if mark.exists() and json.loads(mark.read_text()) == made:
        progress(f"images: those of an earlier call in {directory}")
        return
    mark.unlink(missing_ok=True)
    for name in ("pool", "test"):
        (directory / name).mkdir(exist_ok=True)
    for old in directory.glob("*/*.parquet"):
        old.unlink()
    shards = [
        (directory / "pool" / f"{index:05d}.parquet", begin, min(SHARD_ROWS, n - begin))
        for index, begin in enumerate(range(0, n, SHARD_ROWS))
    ]
    shards.append((directory / "test" / "00000.parquet", FIRST_TEST_ID, TEST_IMAGES))
    # Fresh interpreters: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(workers, len(shards)), mp_context=context)
    try:
        running = [executor.submit(write_shard, path, first, rows, seed) for path, first, rows in shards]
        for done, future in enumerate(as_completed(running), 1):
            future.result()
            if done % 4 == 0 or done == len(running):
                progress(f"images: {done} of {len(running)} files")
    finally:
        executor.shutdown(cancel_futures=True)
    mark.write_text(json.dumps(made))


def write_shard(path: Path, first_id: int, rows: int, seed: int) -> None:
    """Write pictures of consecutive ids as a Parquet file with columns image (JPEG) and label."""
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    # JPEG does not get smaller.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for begin in range(first_id, first_id + rows, GROUP_ROWS):
            ids = np.arange(begin, min(begin + GROUP_ROWS, first_id + rows))
            writer.write_table(_encoded(ids, seed, schema), row_group_size=GROUP_ROWS)


def _encoded(ids: np.ndarray, seed: int, schema: pa.Schema) -> pa.Table:
    parts = [draw_pictures(some, seed) for some in np.split(ids, range(512, len(ids), 512))]
    images = [_jpeg(pixels) for part in parts for pixels in part.pixels]
    return pa.table([images, np.concatenate([part.labels for part in parts])], schema=schema)


def _jpeg(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


def _smooth(knots: np.ndarray) -> np.ndarray:
    """Values (N, K, K, C) at the knots of a grid to (N, 32, 32, C) between them, linearly."""
    count = knots.shape[1]
    at = np.linspace(0, count - 1, SIZE, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))  # (32, K)
    rows = np.einsum("yk,nklc->nylc", weights, knots)
    return np.einsum("xl,nylc->nyxc", weights, rows)


def _shapes(x: np.ndarray, y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Masks (N, 32, 32) float32 of the classes' shapes, given places (N, 1, 32) and (N, 32, 1)."""
    inside = np.empty((len(labels), SIZE, SIZE), np.float32)
    for label, mask in enumerate(
        (
            lambda x, y: x * x + y * y < 1,
            lambda x, y: np.abs(np.sqrt(x * x + y * y) - 0.8) < 0.22,
            lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.85,
            lambda x, y: np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.75) < 0.18,
            lambda x, y: np.abs(x) + np.abs(y) < 1.1,
            lambda x, y: (np.minimum(np.abs(x), np.abs(y)) < 0.28) & (np.maximum(np.abs(x), np.abs(y)) < 1),
            lambda x, y: (np.abs(np.abs(x) - np.abs(y)) < 0.3) & (np.maximum(np.abs(x), np.abs(y)) < 1),
            lambda x, y: (np.abs((2 * y) % 1 - 0.5) < 0.25) & (np.maximum(np.abs(x), np.abs(y)) < 1),
            lambda x, y: (np.abs((2 * x) % 1 - 0.5) < 0.25) & (np.maximum(np.abs(x), np.abs(y)) < 1),
            lambda x, y: (y < 0.8) & (y > 2 * np.abs(x) - 1),
        )
    ):
        of_class = labels == label
        inside[of_class] = mask(x[of_class], y[of_class])
    return inside

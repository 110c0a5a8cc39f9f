"""The pool of a benchmark as a .npy file: made of real images, or somebody's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dm2at_ray.bench.collages import collages
from dm2at_ray.bench.images import LabeledImages
from dm2at_ray.bench.network import trained_network
from dm2at_ray.errors import PoolError
from dm2at_ray.models import Classifier

ROWS = 1024
"""Pictures made and embedded at once: tens of megabytes, however large the pool."""

CHECKED_ROWS = 16384


@dataclass(frozen=True)
class FeatureFile:
    """A (N, D) float32 .npy file in C order.

    Attributes:
        path: the file.
        rows: N.
        dim: D.
        source: what the features are of.
    """

    path: Path
    rows: int
    dim: int
    source: str

    def read(self, rows: int | None = None) -> np.ndarray:
        """Map the first rows into memory; what is written to them stays in this process."""
        return np.load(self.path, mmap_mode="c")[:rows]


def make_features(
    path: Path,
    images: LabeledImages,
    *,
    rows: int,
    dim: int,
    seed: int,
    device: torch.device,
    progress: Callable[[str], None],
) -> FeatureFile:
    """Train a small network on labeled images for some seconds, and write its features of their collages.

    The first rows are the same for any number of rows.

    Args:
        path: the file to write; it is there only once it is whole.
        images: what the pictures are made of.
        rows: N.
        dim: D.
        seed: of everything drawn.
        device: where to train and embed.
        progress: told in words what is going on.
    """
    progress(f"training a small network with {dim} features on {images.name}")
    network = trained_network(images, dim, seed, device)
    progress(f"embedding {rows:,} collages")
    partial = path.with_name(path.name + ".partial")
    try:
        _embed(network, images, partial, rows, seed, device)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return FeatureFile(path, rows, dim, f"collages of {images.name} through a trained convolutional net")


def open_features(path: Path, scratch: Path) -> FeatureFile:
    """Open somebody's own features.

    Args:
        path: a .npy file of (N, D) floats.
        scratch: where a float32 copy is written if the file holds another type.

    Raises:
        PoolError: the file is no such matrix, or holds NaN or infinity.
    """
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise PoolError(
            f"features {str(path)!r} cannot be read ({error}); give a .npy file of (N, D) floats"
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.size:
        raise PoolError(
            f"features {str(path)!r}: not a .npy file of (N, D) floats, but "
            f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}; convert it"
        )
    for start in range(0, len(found), CHECKED_ROWS):
        finite = np.isfinite(found[start : start + CHECKED_ROWS]).all(axis=1)
        if not finite.all():
            raise PoolError(
                f"features {str(path)!r}: row {start + int(finite.argmin())} is NaN or infinite; leave it out"
            )
    rows, dim = found.shape
    if found.dtype != np.float32 or not found.flags.c_contiguous:
        path = scratch / "features.npy"
        copy = _create(path, rows, dim)
        for start in range(0, rows, CHECKED_ROWS):
            copy[start : start + CHECKED_ROWS] = found[start : start + CHECKED_ROWS]
        copy.flush()
    return FeatureFile(path, rows, dim, "own")


def _embed(
    network: Classifier, images: LabeledImages, path: Path, rows: int, seed: int, device: torch.device
) -> None:
    out = _create(path, rows, network.feature_dim)
    pixels = images.pixels.to(device)
    with torch.inference_mode():
        for start in range(0, rows, ROWS):
            ids = np.arange(start, min(start + ROWS, rows), dtype=np.int64)
            out[start : start + ROWS] = network.features(collages(pixels, ids, seed)).cpu().numpy()
    out.flush()


def _create(path: Path, rows: int, dim: int) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))

"""Labeled real images that a benchmark's pool is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.sources import Source, SourceSpec, open_source
from dm2at_ray.pool.sources.base import Split

DEFAULT_DATA_DIRS = "/usr/local/share:/usr/share"
"""What the XDG base directory specification takes where XDG_DATA_DIRS is not set."""

SPLITS: tuple[Split, Split] = ("pool", "test")


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """M gray images of one size.

    Attributes:
        name: what they are.
        pixels: (M, S, S) uint8.
        labels: (M,) int64 class indices.
        classes: number of classes.
    """

    name: str
    pixels: Tensor
    labels: np.ndarray
    classes: int


def load_images(directory: Path | None = None) -> LabeledImages:
    """Read Fashion-MNIST where it is found, else scikit-learn's digits.

    Args:
        directory: the folder of Fashion-MNIST's four IDX files; None looks for `datasets/fashion-mnist`, as
            Debian's package dataset-fashion-mnist has it, in the system's data directories.

    Raises:
        PoolError: `directory` does not hold the four files.
    """
    source, name = _find_source(directory)
    return _read(source, name, source.entries("pool"))


def load_split_images(directory: Path | None = None) -> tuple[LabeledImages, LabeledImages]:
    """Read what `load_images` reads, divided into images to train on and images to test with.

    Fashion-MNIST's are its own 60,000 and 10,000; a fifth of the digits is held out.

    Args:
        directory: as in `load_images`.

    Raises:
        PoolError: `directory` does not hold the four files.
    """
    source, name = _find_source(directory)
    train, test = (_read(source, name, source.tables(split)) for split in SPLITS)
    return train, test


def _find_source(directory: Path | None) -> tuple[Source, str]:
    directory = directory or _installed_fashion_mnist()
    if directory is None:
        return open_source(SourceSpec(kind="digits")), "scikit-learn digits"
    return open_source(SourceSpec(kind="fashion_mnist", path=str(directory))), "Fashion-MNIST"


def _installed_fashion_mnist() -> Path | None:
    data_dirs = os.environ.get("XDG_DATA_DIRS") or DEFAULT_DATA_DIRS
    folders = (Path(each) / "datasets" / "fashion-mnist" for each in data_dirs.split(":"))
    return next(filter(Path.is_dir, folders), None)


def _read(source: Source, name: str, tables: Iterable[pa.Table]) -> LabeledImages:
    pixels, labels = [], []
    try:
        for table in tables:
            images = source.read(table["uri"].to_pylist(), table["row"].to_pylist())
            pixels.append(np.stack([np.asarray(image) for image in images]))
            labels.append(table["label"].to_numpy())
    except PoolError as error:
        raise PoolError(f"images: {error}") from error
    classes = source.class_names
    assert classes is not None
    return LabeledImages(name, torch.from_numpy(np.concatenate(pixels)), np.concatenate(labels), len(classes))

"""Labeled real images that a benchmark's pool is made of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.sources import Source, SourceSpec, open_source

DEFAULT_DATA_DIRS = "/usr/local/share:/usr/share"
"""What the XDG base directory specification takes where XDG_DATA_DIRS is not set."""


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
    directory = directory or _installed_fashion_mnist()
    if directory is None:
        source = open_source(SourceSpec(kind="digits"))
        return _read(source, "scikit-learn digits")
    source = open_source(SourceSpec(kind="fashion_mnist", path=str(directory)))
    try:
        return _read(source, "Fashion-MNIST")
    except PoolError as error:
        raise PoolError(f"images: {error}") from error


def _installed_fashion_mnist() -> Path | None:
    data_dirs = os.environ.get("XDG_DATA_DIRS") or DEFAULT_DATA_DIRS
    folders = (Path(each) / "datasets" / "fashion-mnist" for each in data_dirs.split(":"))
    return next(filter(Path.is_dir, folders), None)


def _read(source: Source, name: str) -> LabeledImages:
    pixels, labels = [], []
    for table in source.entries("pool"):
        images = source.read(table["uri"].to_pylist(), table["row"].to_pylist())
        pixels.append(np.stack([np.asarray(image) for image in images]))
        labels.append(table["label"].to_numpy())
    classes = source.class_names
    assert classes is not None
    return LabeledImages(name, torch.from_numpy(np.concatenate(pixels)), np.concatenate(labels), len(classes))

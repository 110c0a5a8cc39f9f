"""Data sets of torchvision's that lie on the disk already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import read_file, side_by_side
from dm2at_ray.pool.location import one_line
from dm2at_ray.pool.sources.base import (
    ROWS_PER_TABLE,
    Source,
    SourceSpec,
    Split,
    entry_table,
    refuse_test_path,
    required_path,
)
from dm2at_ray.pool.sources.cifar_files import read_batch

_LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class Images:
    """One split of a set.

    Attributes:
        pixels: uint8 (N, H, W) or (N, H, W, C); None where the images are files.
        files: their paths; None where they are pixels.
        labels: class numbers (N,) int64.
        class_names: names of the classes.
    """

    pixels: np.ndarray | None
    files: list[str] | None
    labels: np.ndarray
    class_names: list[str]


class TorchvisionSet(Source):
    """A set by the name of its torchvision class, laid out in ``path`` as that class does.

    Nothing is downloaded. Its own train images are the pool (DTD: without its val), its own test images the
    test split. MNIST, FashionMNIST, KMNIST, USPS,
    SVHN, STL10 and CIFAR are kept as uint8 pixels (CIFAR: 184 MB); of DTD, FGVCAircraft, Food101 and GTSRB
    the files are read when they are asked for. CIFAR's files are pickles, read as
    data without unpickling.
    """

    kind = "torchvision"
    has_test_split = True

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        refuse_test_path(spec, "the sets of torchvision have test images of their own")
        if spec.dataset not in _LOADERS:
            raise PoolError(f"data.dataset {spec.dataset!r}: none of {', '.join(_LOADERS)}; name one of them")
        self._path = Path(required_path(spec)).expanduser().absolute()
        if "://" in str(spec.path):
            raise PoolError(
                f"data.path {spec.path!r}: torchvision reads local folders only; copy the set to a disk"
            )
        self._splits: dict[Split, Images] = {}

    @property
    def class_names(self) -> list[str]:
        """The set's own names, or those of the spec."""
        return list(self.spec.class_names or self._images("pool").class_names)

    def native_size(self) -> tuple[int, int] | None:
        """Of sets of pixels."""
        pixels = self._images("pool").pixels
        return None if pixels is None else (pixels.shape[1], 1 if pixels.ndim == 3 else pixels.shape[3])

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """In the set's order; ``row`` is the index in it."""
        images = self._images(split)
        if len(self.class_names) <= images.labels.max(initial=-1):
            raise PoolError(
                f"data.class_names {self.spec.class_names!r}: {len(self.class_names)} names for the "
                f"{len(images.class_names)} classes of {self.spec.dataset}; name them all, or none"
            )
        for start in range(0, len(images.labels), ROWS_PER_TABLE):
            labels = images.labels[start : start + ROWS_PER_TABLE]
            rows = np.arange(start, start + len(labels))
            yield entry_table([self._uri(split)] * len(rows), rows, labels)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """Read-only arrays, or the files' bytes."""
        splits: dict[str, Split] = {self._uri("pool"): "pool", self._uri("test"): "test"}
        wanted = [(splits.get(uri), int(row)) for uri, row in zip(uris, rows, strict=True)]
        for split in {split for split, _ in wanted if split is not None}:
            self._images(split)  # loaded here, not by several threads at once
        if all(split is None or self._images(split).files is None for split, _ in wanted):
            return [self._image(*place) for place in wanted]
        return side_by_side(lambda place: self._image(*place), wanted)

    def _image(self, split: Split | None, row: int) -> Raw:
        if split is None or not 0 <= row < len(self._images(split).labels):
            return UnreadableImage("no such image in data.path")
        images = self._images(split)
        if images.files is not None:
            return read_file(_LOCAL, images.files[row], images.files[row])
        assert images.pixels is not None
        return images.pixels[row]

    def _uri(self, split: Split) -> str:
        return f"{self._path}#{self.spec.dataset}-{'train' if split == 'pool' else 'test'}"

    def _images(self, split: Split) -> Images:
        if split not in self._splits:
            self._splits[split] = self._load(split)
        return self._splits[split]

    def _load(self, split: Split) -> Images:
        name = str(self.spec.dataset)
        try:
            images = _LOADERS[name](self._path, name, split == "pool")
        except (
            OSError,
            EOFError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            AssertionError,
            RuntimeError,
        ) as error:
            why = "not there as torchvision lays it out" if "download=True" in str(error) else one_line(error)
            raise PoolError(
                f"data.path {str(self._path)!r}: {name} cannot be read: {why}; give the folder that "
                f"torchvision calls the root of {name}"
            ) from error
        if images.pixels is not None:
            images.pixels.flags.writeable = False
        return images


def _from_idx(root: Path, name: str, is_train: bool) -> Images:
    from torchvision import datasets

    if (root / name / "processed").exists():
        # torchvision would unpickle what an older version of it has left there.
        raise ValueError("its folder 'processed' holds pickles of an older torchvision; remove that folder")
    found = getattr(datasets, name)(root, train=is_train, download=False)
    return Images(found.data.numpy(), None, found.targets.numpy().astype(np.int64), list(found.classes))


def _from_usps(root: Path, name: str, is_train: bool) -> Images:
    from torchvision import datasets

    found = datasets.USPS(root, train=is_train, download=False)
    return Images(found.data, None, np.array(found.targets, np.int64), _digits())


def _from_channels_first(root: Path, name: str, is_train: bool) -> Images:
    from torchvision import datasets

    found = getattr(datasets, name)(root, split="train" if is_train else "test", download=False)
    names = _digits() if name == "SVHN" else list(found.classes)
    return Images(found.data.transpose(0, 2, 3, 1), None, found.labels.astype(np.int64), names)


def _from_files(root: Path, name: str, is_train: bool) -> Images:
    from torchvision import datasets

    split = "test" if not is_train else "trainval" if name == "FGVCAircraft" else "train"
    found: Any = getattr(datasets, name)(root, split=split, download=False)
    if name == "GTSRB":
        labels = _numbers(label for _, label in found._samples)
        # The signs have numbers, no names; the folders of the train images are called by these.
        return Images(
            None, [str(path) for path, _ in found._samples], labels, [str(sign) for sign in range(43)]
        )
    return Images(None, list(map(str, found._image_files)), _numbers(found._labels), list(found.classes))


def _from_cifar(root: Path, name: str, is_train: bool) -> Images:
    layout = _CIFAR[name]
    home = root / layout.folder if (root / layout.folder).is_dir() else root
    batches = [_cifar_file(home / file) for file in (layout.train if is_train else layout.test)]
    pixels = np.concatenate([batch["data"].reshape(-1, 3, 32, 32) for batch in batches]).transpose(0, 2, 3, 1)
    labels = _numbers(label for batch in batches for label in batch[layout.labels])
    names = [str(word) for word in _cifar_file(home / layout.meta)[layout.names]]
    if len(labels) != len(pixels) or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < len(names):
        raise ValueError(f"{len(pixels)} images, {len(labels)} labels and {len(names)} classes do not fit")
    return Images(pixels, None, labels, names)


def _cifar_file(path: Path) -> dict[str, Any]:
    try:
        return read_batch(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _numbers(labels: Iterable[int]) -> np.ndarray:
    return np.fromiter(labels, np.int64)


def _digits() -> list[str]:
    return [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class _CifarLayout:
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str


_CIFAR = {
    "CIFAR10": _CifarLayout(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    "CIFAR100": _CifarLayout(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}
_LOADERS: dict[str, Callable[[Path, str, bool], Images]] = {
    "CIFAR10": _from_cifar,
    "CIFAR100": _from_cifar,
    "DTD": _from_files,
    "FGVCAircraft": _from_files,
    "FashionMNIST": _from_idx,
    "Food101": _from_files,
    "GTSRB": _from_files,
    "KMNIST": _from_idx,
    "MNIST": _from_idx,
    "STL10": _from_channels_first,
    "SVHN": _from_channels_first,
    "USPS": _from_usps,
}

"""Fashion-MNIST from its four IDX files (Xiao, Rasul and Vollgraf, arXiv 1708.07747)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources.base import (
    Source,
    SourceSpec,
    Split,
    entry_table,
    refuse_test_path,
    required_path,
)

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_STEMS: dict[Split, str] = {"pool": "train", "test": "t10k"}
# Directly in the folder (Debian's dataset-fashion-mnist), or where torchvision's download puts them.
_FOLDERS = ("", "raw/", "FashionMNIST/raw/")


class FashionMnist(Source):
    """Ten kinds of clothing, 28 x 28, gray: the 60,000 ``train`` images are the pool, ``t10k`` the test.

    A file is decompressed once, when an image of it is first read, and kept (47 MB for ``train``).
    """

    kind = "fashion_mnist"
    has_test_split = True

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        refuse_test_path(spec, "Fashion-MNIST's test images are its t10k files in data.path")
        self._root = Location.of(required_path(spec))
        self._images: dict[Split, np.ndarray] = {}

    @property
    def class_names(self) -> list[str]:
        """The ten names in the data set's order."""
        return list(CLASS_NAMES)

    def native_size(self) -> tuple[int, int]:
        """28 x 28 pixels, gray."""
        return 28, 1

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """The images of one file in its order; ``row`` is the index there."""
        labels = self._read_idx(self._files[f"{_STEMS[split]}-labels-idx1-ubyte"], dimensions=1)
        path = self._files[f"{_STEMS[split]}-images-idx3-ubyte"]
        count, largest = len(self._split_images(split)), labels.max(initial=0)
        if len(labels) != count or largest >= len(CLASS_NAMES):
            raise PoolError(
                f"data.path {path!r}: {count} images but {len(labels)} labels, the largest {largest}; "
                "give matching files, with labels 0 to 9"
            )
        yield entry_table(
            [self._root.child(path).uri] * len(labels), np.arange(len(labels)), labels.astype(np.int64)
        )

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """Read-only arrays (28, 28)."""
        by_uri: dict[str, Split] = {
            self._root.child(self._files[f"{stem}-images-idx3-ubyte"]).uri: split
            for split, stem in _STEMS.items()
        }
        return [self._image(by_uri.get(uri), row) for uri, row in zip(uris, rows, strict=True)]

    def _image(self, split: Split | None, row: int) -> Raw:
        if split is None or not 0 <= row < len(self._split_images(split)):
            return UnreadableImage("no such image in data.path")
        return self._split_images(split)[row]

    def _split_images(self, split: Split) -> np.ndarray:
        if split not in self._images:
            self._images[split] = self._read_idx(
                self._files[f"{_STEMS[split]}-images-idx3-ubyte"], dimensions=3
            )
        return self._images[split]

    @cached_property
    def _files(self) -> dict[str, str]:
        """Path of each of the four files by its name without ``.gz``."""
        names = [
            f"{stem}-{rest}"
            for stem in _STEMS.values()
            for rest in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        for folder in _FOLDERS:
            tries = {
                name: [f"{self._root.path}/{folder}{name}{end}" for end in ("", ".gz")] for name in names
            }
            found = {name: next(filter(self._is_file, paths), None) for name, paths in tries.items()}
            if all(found.values()):
                return {name: path for name, path in found.items() if path}
        raise PoolError(
            f"data.path {self.spec.path!r}: not all of {', '.join(names)} (or .gz) are there or in "
            "FashionMNIST/raw; give the folder that holds the four files"
        )

    def _is_file(self, path: str) -> bool:
        return self._root.filesystem.get_file_info(path).type == fs.FileType.File

    def _read_idx(self, path: str, dimensions: int) -> np.ndarray:
        """The uint8 array of an IDX file, its header checked against its length."""
        try:
            with self._root.filesystem.open_input_stream(path, compression=None) as stream:
                data = stream.read()
            if path.endswith(".gz"):
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise PoolError(f"data.path {path!r}: {one_line(error)}; fetch the file again") from error
        shape = np.frombuffer(data[4 : 4 + 4 * dimensions], dtype=">u4").astype(np.int64)
        header = 4 + 4 * dimensions
        # Bytes 2 and 3: element type (8 is uint8) and number of dimensions.
        if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != header + int(np.prod(shape)):
            raise PoolError(
                f"data.path {path!r}: not an IDX file of uint8 in {dimensions} dimensions; fetch it again"
            )
        return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)

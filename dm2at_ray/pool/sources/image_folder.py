"""A folder of image files, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import read_file, side_by_side
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources.base import Source, SourceSpec, Split, entry_table, required_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class ImageFolder(Source):
    """Image files below a folder; an image's class is the name of the sub-folder directly below it.

    Classes are numbered by sorted name, or as ``class_names`` has them. Files outside all sub-folders, and
    all files of a folder without sub-folders, are unlabeled. Files with another suffix and hidden ones are
    passed over. Listing holds the file names of one class in memory, never those of the whole pool.
    """

    kind = "image_folder"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._root = Location.of(required_path(spec))
        self._test_root = None if spec.test_path is None else Location.of(spec.test_path, "data.test_path")
        self.has_test_split = self._test_root is not None

    @property
    def class_names(self) -> list[str] | None:
        """The spec's names, else the pool's sub-folders, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        return self._pool_classes or self._test_classes or None

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """First the files directly in the folder, then class by class, each in the order of its paths."""
        root, field = self._place(split)
        classes = self._test_classes if split == "test" else self._pool_classes
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        unknown = [name for name in classes if name not in numbers]
        if unknown:
            raise PoolError(
                f"{field} {root.uri!r}: sub-folder {unknown[0]!r} is none of the classes "
                f"{', '.join(numbers)}; rename it, or list it in data.class_names"
            )
        direct = root.filesystem.get_file_info(fs.FileSelector(root.path))
        paths = sorted(info.path for info in direct if info.type == fs.FileType.File)
        yield self._table(root, paths, label=None)
        for name in classes:
            yield self._table(root, root.child(f"{root.path}/{name}").files(), label=numbers[name])

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The files' bytes."""
        return side_by_side(self._read_file, uris)

    @cached_property
    def _pool_classes(self) -> list[str]:
        return self._classes("pool")

    @cached_property
    def _test_classes(self) -> list[str]:
        return self._classes("test") if self.has_test_split else []

    def _place(self, split: Split) -> tuple[Location, str]:
        if split == "test" and self._test_root is not None:
            return self._test_root, "data.test_path"
        return self._root, "data.path"

    def _classes(self, split: Split) -> list[str]:
        root, field = self._place(split)
        try:
            found = root.info().type
            if found == fs.FileType.Directory:
                return [path.rsplit("/", 1)[-1] for path in root.folders()]
        except OSError as error:
            raise PoolError(
                f"{field} {root.uri!r}: {one_line(error)}; give a folder that can be read"
            ) from error
        what = "no such folder" if found == fs.FileType.NotFound else "not a folder"
        raise PoolError(f"{field} {root.uri!r}: {what}; give a folder of images, with one sub-folder a class")

    def _table(self, root: Location, paths: list[str], label: int | None) -> pa.Table:
        names = ((path, path.rsplit("/", 1)[-1]) for path in paths)
        images = [
            path for path, name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        labels = None if label is None else np.full(len(images), label, dtype=np.int64)
        uris = [root.child(path).uri for path in images]
        return entry_table(uris, np.zeros(len(images), dtype=np.int64), labels)

    def _read_file(self, uri: str) -> Raw:
        for root in filter(None, (self._root, self._test_root)):
            path = root.resolve(uri)
            if path is not None:
                return read_file(root.filesystem, path, uri)
        return UnreadableImage("not below data.path or data.test_path")

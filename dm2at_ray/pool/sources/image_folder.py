"""A folder of image files, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import ahead, read_file, side_by_side
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources.base import Split, entry_table
from dm2at_ray.pool.sources.rooted import RootedSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_LISTED_AHEAD = 8
"""Classes of a store that are listed at a time."""


class ImageFolder(RootedSource):
    """Image files below a folder; an image's class is the name of the sub-folder directly below it.

    Classes are numbered by sorted name, or as ``class_names`` has them. Files outside all sub-folders, and
    all files of a folder without sub-folders, are unlabeled. Files with another suffix and hidden ones are
    passed over. Listing holds the file names of one class in memory, on a store those of a few, on Google's
    those of the whole pool.
    """

    kind = "image_folder"

    @property
    def class_names(self) -> list[str] | None:
        """The spec's names, else the pool's sub-folders, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        return self._pool_folders or self._test_folders or None

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """First the files directly in the folder, then class by class, each in the order of its paths."""
        root = self._roots[split]
        folders = self._test_folders if split == "test" else self._pool_folders
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        unknown = [name for name in folders if name not in numbers]
        if unknown:
            raise PoolError(
                f"{self._where(split, root.uri)}: sub-folder {unknown[0]!r} is none of the classes "
                f"{', '.join(numbers)}; rename it, or list it in data.class_names"
            )
        direct = root.filesystem.get_file_info(fs.FileSelector(root.path))
        paths = sorted(info.path for info in direct if info.type == fs.FileType.File)
        yield self._table(root, paths, label=None)
        for name, paths in zip(folders, self._files_of(root, folders), strict=True):
            yield self._table(root, paths, label=numbers[name])

    def _files_of(self, root: Location, folders: list[str]) -> Iterator[list[str]]:
        """The files of each class; on a store, which takes its time for each, those of a few are awaited."""

        def files(name: str) -> list[str]:
            return root.child(f"{root.path}/{name}").files()

        return ahead(files, folders, _LISTED_AHEAD) if root.is_remote else map(files, folders)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The files' bytes."""
        return side_by_side(self._read_file, uris)

    @cached_property
    def _pool_folders(self) -> list[str]:
        return self._folders("pool")

    @cached_property
    def _test_folders(self) -> list[str]:
        return self._folders("test") if self.has_test_split else []

    def _folders(self, split: Split) -> list[str]:
        root = self._roots[split]
        where = self._where(split, root.uri)
        try:
            found = root.info().type
            if found == fs.FileType.Directory:
                return [path.rsplit("/", 1)[-1] for path in root.folders()]
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; give a folder that can be read") from error
        what = "no such folder" if found == fs.FileType.NotFound else "not a folder"
        raise PoolError(f"{where}: {what}; give a folder of images, with one sub-folder a class")

    def _table(self, root: Location, paths: list[str], label: int | None) -> pa.Table:
        names = ((path, path.rsplit("/", 1)[-1]) for path in paths)
        images = [
            path for path, name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        labels = None if label is None else np.full(len(images), label, dtype=np.int64)
        uris = [root.child(path).uri for path in images]
        return entry_table(uris, np.zeros(len(images), dtype=np.int64), labels)

    def _read_file(self, uri: str) -> Raw:
        found = self._find(uri)
        if found is None:
            return UnreadableImage("not below data.path or data.test_path")
        split, path = found
        return read_file(self._roots[split].filesystem, path, uri)

"""A folder of image files, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import read_file, side_by_side
from dm2at_ray.pool.location import one_line
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA, Split
from dm2at_ray.pool.sources.labels import class_numbers
from dm2at_ray.pool.sources.parted import Part, PartedSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class ImageFolder(PartedSource):
    """Image files below a folder; an image's class is the name of the sub-folder directly below it.

    Classes are numbered by sorted name, or as ``class_names`` has them. Files outside all sub-folders, and
    all files of a folder without sub-folders, are unlabeled. Files with another suffix and hidden ones are
    passed over. Listing holds the file names of one class in memory, never those of the whole pool.
    """

    kind = "image_folder"

    @property
    def class_names(self) -> list[str] | None:
        """The spec's names, else the pool's sub-folders, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        return self._pool_folders or self._test_folders or None

    def learn_classes(self, labels: Iterable[tuple[str, pa.Array]]) -> None:
        """Nothing to learn: sub-folders are classes, also empty ones."""

    def parts(self, split: Split) -> list[Part]:
        """The folder itself, for the files directly in it, then class by class."""
        root, names = self._roots[split], self.class_names or ()
        folders = self._test_folders if split == "test" else self._pool_folders
        unknown = [name for name in folders if name not in names]
        if unknown:
            raise PoolError(
                f"{self._where(split, root.uri)}: sub-folder {unknown[0]!r} is none of the classes "
                f"{', '.join(names)}; rename it, or list it in data.class_names"
            )
        return [Part(root.path), *(Part(f"{root.path}/{name}") for name in folders)]

    def list_part(self, split: Split, path: str) -> Iterator[pa.Table]:
        """The files of a class in the order of their paths, or those directly in the folder."""
        root = self._roots[split]
        label = None
        if path == root.path:
            direct = root.filesystem.get_file_info(fs.FileSelector(path))
            paths = sorted(info.path for info in direct if info.type == fs.FileType.File)
        else:
            label = path.rsplit("/", 1)[-1]
            paths = root.child(path).files()
        names = ((path, path.rsplit("/", 1)[-1]) for path in paths)
        images = [
            path for path, name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        uris = pa.array([root.child(path).uri for path in images], pa.string())
        rows = pa.array(np.zeros(len(images), dtype=np.int64))
        labels = pa.array([label] * len(images), pa.string())
        yield pa.table({"uri": uris, "row": rows, "label": labels})

    def numbered(self, split: Split, path: str, table: pa.Table) -> pa.Table:
        """What `list_part` has given, as entries; folders are classes whatever the label column."""
        numbers = class_numbers(table["label"].combine_chunks(), "string", self.class_names or [])
        return pa.table([table["uri"], table["row"], numbers], schema=ENTRY_SCHEMA)

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

    def _read_file(self, uri: str) -> Raw:
        found = self._find(uri)
        if found is None:
            return UnreadableImage("not below data.path or data.test_path")
        split, path = found
        return read_file(self._roots[split].filesystem, path, uri)

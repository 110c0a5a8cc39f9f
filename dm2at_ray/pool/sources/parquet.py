"""Parquet files with a column of images: the format for pools of millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import store_error
from dm2at_ray.pool.location import Location, is_store_error, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources import arrow_images, arrow_labels
from dm2at_ray.pool.sources.base import ROWS_PER_TABLE, Source, SourceSpec, Split, entry_table, required_path

SUFFIXES = (".parquet", ".pq")
_OPEN_FILES = 32
_CACHED_BYTES = 64 << 20  # of row groups, per source object; the newest is kept whatever its size


@dataclass(frozen=True)
class _OpenFile:
    parquet: pq.ParquetFile
    group_starts: np.ndarray  # first row of each row group, and the number of rows


class Parquet(Source):
    """A Parquet file, or all Parquet files below a folder in the order of their paths.

    Images are encoded bytes (binary, or Hugging Face's struct of bytes and path) or uint8 pixels (fixed-shape
    tensors or lists). Listing reads footers and the label column, never the images. An image is read
    with its row group, and the row groups used last are kept: reading ids in order reads each group once.
    """

    kind = "parquet"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._roots: dict[Split, Location] = {"pool": Location.of(required_path(spec))}
        if spec.test_path is not None:
            self._roots["test"] = Location.of(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._roots
        self._listed: dict[Split, list[str]] = {}
        self._files: LruCache[tuple[Split, str], _OpenFile] = LruCache(_OPEN_FILES)
        self._groups: LruCache[tuple[Split, str, int], pa.ChunkedArray] = LruCache(
            _CACHED_BYTES, weigh=lambda group: group.nbytes
        )

    @cached_property
    def class_names(self) -> list[str] | None:  # type: ignore[override] # a cached property is one that is kept
        """The spec's names, else those of a Hugging Face label column, else what the labels are."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        if self.spec.label_column is None:
            return None
        schema = self._open("pool", self._paths("pool")[0]).schema_arrow
        names = arrow_labels.huggingface_names(schema, self.spec.label_column)
        # A pool whose labels are all null takes the classes of its labeled test images.
        for split, root in self._roots.items():
            labels = (labels for path in self._paths(split) for labels in self._labels(split, path))
            try:
                names = names or arrow_labels.classes_of(labels, self._label_kind)
            except ValueError as error:
                raise self._label_error(split, root.uri, one_line(error)) from error
        return names or None

    def native_size(self) -> tuple[int, int] | None:
        """What the type of a pixel column says of its square images; None for encoded ones."""
        image_type = self._image_type("pool", self._paths("pool")[0])
        shape = None if arrow_images.holds_bytes(image_type) else arrow_images.pixel_shape(image_type)
        return None if shape is None or shape[0] != shape[1] else (shape[0], shape[2])

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """File by file in the order of their paths; ``row`` is the row in its file."""
        for path in self._paths(split):
            uri = self._roots[split].child(path).uri
            self._image_type(split, path)
            start = 0
            for labels in self._label_batches(split, path):
                rows = np.arange(start, start + len(labels))
                yield entry_table([uri] * len(rows), rows, labels)
                start += len(rows)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """Encoded bytes or arrays (H, W, C), each row group read once a call."""
        images: list[Raw] = [UnreadableImage("not below data.path or data.test_path")] * len(uris)
        broken: dict[tuple[Split, str, int], UnreadableImage] = {}
        for place in sorted(range(len(uris)), key=lambda place: (uris[place], rows[place])):
            found = self._find(uris[place])
            if found is not None:
                images[place] = self._read_row(*found, int(rows[place]), broken)
        return images

    def _find(self, uri: str) -> tuple[Split, str] | None:
        for split, root in self._roots.items():
            path = root.resolve(uri)
            if path is not None:
                return split, path
        return None

    def _read_row(
        self, split: Split, path: str, row: int, broken: dict[tuple[Split, str, int], UnreadableImage]
    ) -> Raw:
        """One image; a row group found ``broken`` is noted there, not tried again for each of its rows."""
        key = (split, path, -1)  # the file itself, until the row group is known
        try:
            if key in broken:
                return broken[key]
            starts = self._files.get((split, path), self._load_file).group_starts
            if not 0 <= row < starts[-1]:
                return UnreadableImage(f"the file has only {starts[-1]} rows")
            group = int(np.searchsorted(starts, row, side="right")) - 1
            key = (split, path, group)
            if key in broken:
                return broken[key]
            return arrow_images.raw_image(self._groups.get(key, self._load_group)[row - int(starts[group])])
        except (PoolError, OSError, pa.ArrowException, KeyError) as error:
            # Opening a file has wrapped what went wrong already.
            cause = error.__cause__ if isinstance(error, PoolError) else error
            if cause is not None and is_store_error(cause):
                raise store_error(self._roots[split].child(path).uri, cause) from error
            return broken.setdefault(key, UnreadableImage(one_line(error)))

    def _load_group(self, key: tuple[Split, str, int]) -> pa.ChunkedArray:
        split, path, group = key
        return self._open(split, path).read_row_group(group, columns=[self.spec.image_column]).column(0)

    def _paths(self, split: Split) -> list[str]:
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def _list(self, split: Split) -> list[str]:
        root, where = self._roots[split], self._where(split, self._roots[split].uri)
        try:
            found = root.info().type
            if found == fs.FileType.File:
                return [root.path]
            paths = root.files() if found == fs.FileType.Directory else []
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; give a place that can be read") from error
        paths = [path for path in paths if path.endswith(SUFFIXES)]
        if not paths:
            what = "no such file or folder" if found == fs.FileType.NotFound else "no Parquet files there"
            raise PoolError(f"{where}: {what}; give a .parquet file or a folder of them")
        return paths

    def _open(self, split: Split, path: str) -> pq.ParquetFile:
        return self._files.get((split, path), self._load_file).parquet

    def _load_file(self, key: tuple[Split, str]) -> _OpenFile:
        split, path = key
        try:
            parquet = open_parquet(path, filesystem=self._roots[split].filesystem)
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            return _OpenFile(parquet, np.cumsum([0, *sizes]))
        except (pa.ArrowException, OSError) as error:
            raise PoolError(
                f"{self._where(split, path)}: {one_line(error)}; replace or remove the file"
            ) from error

    def _where(self, split: Split, path: str) -> str:
        return f"data.{'path' if split == 'pool' else 'test_path'} {path!r}"

    def _image_type(self, split: Split, path: str) -> pa.DataType:
        schema = self._open(split, path).schema_arrow
        column = self.spec.image_column
        if column not in schema.names:
            raise PoolError(
                f"data.image_column {column!r}: {path!r} has only {', '.join(schema.names)}; name one"
            )
        image_type = schema.field(column).type
        if not arrow_images.holds_bytes(image_type) and not arrow_images.holds_pixels(image_type):
            raise PoolError(
                f"data.image_column {column!r}: {path!r} holds {image_type} there; name a column of encoded "
                "image bytes or of uint8 pixels"
            )
        return image_type

    def _label_batches(self, split: Split, path: str) -> Iterator[pa.Array]:
        """Class numbers of a file's rows, at most 65,536 at a time; nulls where nothing is labeled."""
        if self.spec.label_column is None:
            total = self._open(split, path).metadata.num_rows
            for start in range(0, total, ROWS_PER_TABLE):
                yield pa.nulls(min(ROWS_PER_TABLE, total - start), pa.int64())
            return
        try:
            for labels in self._labels(split, path):
                yield arrow_labels.class_numbers(labels, self._label_kind, self.class_names or [])
        except ValueError as error:
            raise self._label_error(split, path, one_line(error)) from error

    def _labels(self, split: Split, path: str) -> Iterator[pa.Array]:
        """Plain labels of a file's rows, at most 65,536 at a time."""
        column = self.spec.label_column
        if self._kind_in(split, path) != self._label_kind:
            raise self._label_error(split, path, f"not {self._label_kind} labels as in the pool's first file")
        for batch in self._open(split, path).iter_batches(ROWS_PER_TABLE, columns=[column]):
            yield arrow_labels.plain_labels(batch.column(0), self._label_kind)

    @cached_property
    def _label_kind(self) -> arrow_labels.LabelKind:
        return self._kind_in("pool", self._paths("pool")[0])

    def _kind_in(self, split: Split, path: str) -> arrow_labels.LabelKind:
        schema = self._open(split, path).schema_arrow
        if self.spec.label_column not in schema.names:
            raise self._label_error(split, path, f"no such column among {', '.join(schema.names)}")
        label_type = schema.field(self.spec.label_column).type
        kind = arrow_labels.label_kind(label_type)
        if kind is None:
            raise self._label_error(split, path, f"it holds {label_type}")
        return kind

    def _label_error(self, split: Split, path: str, what: str) -> PoolError:
        return PoolError(
            f"data.label_column {self.spec.label_column!r}: {what}, in {self._where(split, path)}; name a "
            "column of class numbers or names, or null for a pool without labels"
        )

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
from dm2at_ray.pool.location import is_store_error, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources import arrow_images
from dm2at_ray.pool.sources.base import ROWS_PER_TABLE, SourceSpec, Split
from dm2at_ray.pool.sources.labels import LabelKind, huggingface_names, label_kind, plain_labels
from dm2at_ray.pool.sources.shards import ShardedSource

SUFFIXES = (".parquet", ".pq")
_OPEN_FILES = 32
_CACHED_BYTES = 64 << 20  # of row groups, per source object; the newest is kept whatever its size


@dataclass(frozen=True)
class _OpenFile:
    parquet: pq.ParquetFile
    group_starts: np.ndarray  # first row of each row group, and the number of rows


class Parquet(ShardedSource):
    """A Parquet file, or all Parquet files below a folder in the order of their paths.

    Images are encoded bytes (binary, or Hugging Face's struct of bytes and path) or uint8 pixels (fixed-shape
    tensors or lists). Listing reads footers and the label column, never the images. An image is read
    with its row group, and the row groups used last are kept: reading ids in order reads each group once.
    """

    kind = "parquet"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._files: LruCache[tuple[Split, str], _OpenFile] = LruCache(_OPEN_FILES)
        self._groups: LruCache[tuple[Split, str, int], pa.ChunkedArray] = LruCache(
            _CACHED_BYTES, weigh=lambda group: group.nbytes
        )

    def native_size(self) -> tuple[int, int] | None:
        """What the type of a pixel column says of its square images; None for encoded ones."""
        image_type = self._image_type("pool", self.shards("pool")[0].path)
        shape = None if arrow_images.holds_bytes(image_type) else arrow_images.pixel_shape(image_type)
        return None if shape is None or shape[0] != shape[1] else (shape[0], shape[2])

    def list_shard(self, split: Split, path: str) -> Iterator[pa.Table]:
        """A file's rows, at most 65,536 at a time; ``row`` is the row in its file."""
        uri = self._roots[split].child(path).uri
        self._image_type(split, path)
        start = 0
        for labels in self._shard_labels(split, path):
            rows = np.arange(start, start + len(labels))
            uris = pa.array([uri] * len(rows), pa.string())
            yield pa.table({"uri": uris, "row": pa.array(rows, pa.int64()), "label": labels})
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

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return SUFFIXES

    def _none_there(self, split: Split, found: fs.FileType, paths: list[str]) -> PoolError:
        what = "no such file or folder" if found == fs.FileType.NotFound else "no Parquet files there"
        where = self._where(split, self._roots[split].uri)
        return PoolError(f"{where}: {what}; give a .parquet file or a folder of them")

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

    def _shard_labels(self, split: Split, path: str) -> Iterator[pa.Array]:
        """Plain labels of a file's rows, at most 65,536 at a time; nulls where nothing is labeled."""
        column, file = self.spec.label_column, self._open(split, path)
        if column is None:
            total = file.metadata.num_rows
            for start in range(0, total, ROWS_PER_TABLE):
                yield pa.nulls(min(ROWS_PER_TABLE, total - start), pa.int64())
            return
        kind = self._kind_in(split, path)
        for batch in file.iter_batches(ROWS_PER_TABLE, columns=[column]):
            yield plain_labels(batch.column(0), kind)

    def _declared_classes(self) -> list[str]:
        """Those of a Hugging Face label column, in the pool's first file."""
        assert self.spec.label_column is not None
        schema = self._open("pool", self.shards("pool")[0].path).schema_arrow
        return huggingface_names(schema, self.spec.label_column) or []

    def _check_labels(self, split: Split, path: str, labels: pa.Array) -> None:
        if label_kind(labels.type) != self._label_kind:
            where = self._where(split, path)
            raise self._label_error(where, f"not {self._label_kind} labels as in the pool's first file")

    @cached_property
    def _label_kind(self) -> LabelKind:  # type: ignore[override] # a cached property is one that is kept
        return self._kind_in("pool", self.shards("pool")[0].path)

    def _kind_in(self, split: Split, path: str) -> LabelKind:
        schema = self._open(split, path).schema_arrow
        if self.spec.label_column not in schema.names:
            raise self._label_error(
                self._where(split, path), f"no such column among {', '.join(schema.names)}"
            )
        label_type = schema.field(self.spec.label_column).type
        kind = label_kind(label_type)
        if kind is None:
            raise self._label_error(self._where(split, path), f"it holds {label_type}")
        return kind

    def _label_error(self, where: str, what: str) -> PoolError:
        return PoolError(
            f"data.label_column {self.spec.label_column!r}: {what}, in {where}; name a column "
            "of class numbers or names, or null for a pool without labels"
        )

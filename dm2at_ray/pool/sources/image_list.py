"""A CSV or Parquet file that names one image a row."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, fs

from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import read_file, side_by_side
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources.base import ROWS_PER_TABLE, Source, SourceSpec, Split, entry_table, required_path
from dm2at_ray.pool.sources.labels import class_numbers, classes_of, label_kind, plain_labels

CSV_SUFFIXES = (".csv",)
PARQUET_SUFFIXES = (".parquet", ".pq")
DEFAULT_COLUMN = "uri"
_LOCAL = fs.LocalFileSystem()
_OPEN_ROOTS = 256  # buckets and hosts
_SECRET = r"^[A-Za-z0-9+.\-]+://[^/]*:[^/]*@"


class ImageList(Source):
    """Images wherever they lie, by a list of their paths or URIs, and labels where it has them.

    Local paths, ``file://``, ``s3://``, ``gs://`` and whatever else pyarrow opens may stand side by side;
    paths without a root start at the list's own folder. A path or key is taken as it is written, but for
    ``file://`` nothing in it is percent-decoded. Options of the list's own URI (an endpoint) hold for all
    images under its scheme. ``row`` is the row in the list. Listing reads the list, a block at a
    time, and no image.
    """

    kind = "list"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._lists: dict[Split, Location] = {"pool": Location.of(required_path(spec))}
        if spec.test_path is not None:
            self._lists["test"] = Location.of(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._lists
        for split, place in self._lists.items():
            if not place.path.endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES)):
                raise PoolError(
                    f"{self._where(split)}: neither .csv nor .parquet; give a list of images as one"
                )
        self._roots: LruCache[str, Location | UnreadableImage] = LruCache(_OPEN_ROOTS)

    @cached_property
    def class_names(self) -> list[str] | None:  # type: ignore[override] # a cached property is one that is kept
        """The spec's names, else what the pool's labels are, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        if self.spec.label_column is None:
            return None
        for split in self._lists:
            labels = (plain_labels(labels, "text") for _, labels in self._batches(split, with_uris=False))
            try:
                names = classes_of(labels, "text")
            except ValueError as error:
                raise self._label_error(split, one_line(error)) from error
            if names:
                return names
        return None

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """Row by row."""
        home = self._lists[split]
        # Below a file:// URI the names would be taken for percent-encoded ones.
        folder = (home.uri if home.is_remote else home.path).rpartition("/")[0]
        start = 0
        for uris, texts in self._batches(split, with_uris=True):
            try:
                labels = class_numbers(plain_labels(texts, "text"), "text", self.class_names or [])
            except ValueError as error:
                raise self._label_error(split, one_line(error)) from error
            secret = pc.fill_null(pc.match_substring_regex(uris, _SECRET), False)
            if pc.any(secret).as_py():
                raise PoolError(
                    f"{self._where(split)}: row {start + pc.index(secret, True).as_py()} has a secret in its "
                    "URI, which would end up in manifests and logs; give it by the environment"
                )
            rows = np.arange(start, start + len(uris))
            start += len(uris)
            yield entry_table([_absolute(uri, folder) for uri in uris.to_pylist()], rows, labels)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The files' bytes."""
        # Filesystems are made here, so that only the reading happens in threads.
        places = [(self._open(uri), uri) for uri in uris]
        return side_by_side(_read, places)

    def _open(self, uri: str) -> tuple[fs.FileSystem, str] | UnreadableImage:
        scheme, separator, rest = uri.partition("://")
        if not separator:
            return (_LOCAL, uri) if uri else UnreadableImage("no path or URI in this row")
        if scheme == "file":
            try:
                return fs.FileSystem.from_uri(uri)
            except (pa.ArrowException, OSError, ValueError) as error:
                return UnreadableImage(one_line(error))
        bucket = rest.partition("/")[0]
        root = self._roots.get(f"{scheme}://{bucket}", self._open_root)
        if isinstance(root, UnreadableImage):
            return root
        return root.filesystem, root.path.rstrip("/") + rest[len(bucket) :]

    def _open_root(self, root: str) -> Location | UnreadableImage:
        for home in self._lists.values():
            # The bucket of the list is there for whomever the list's URI names.
            if home.is_remote and home.uri.startswith(f"{root}/"):
                return Location(home.filesystem, root.partition("://")[2], root)
        try:
            return Location.of(root + self._options(root), "URI")
        except PoolError as error:
            return UnreadableImage(one_line(error))

    def _options(self, root: str) -> str:
        """What stands behind the question mark of the list's own URI, for images under the same scheme."""
        for path in (self.spec.path, self.spec.test_path):
            if path and "?" in path and path.partition("://")[0] == root.partition("://")[0]:
                return "?" + path.partition("?")[2]
        return ""

    def _batches(self, split: Split, with_uris: bool) -> Iterator[tuple[pa.Array, pa.Array]]:
        """URIs and labels as the list has them; without a label column these are null, unasked URIs too."""
        columns = [name for name in (self.spec.uri_column, self.spec.label_column) if name is not None]
        chosen = columns if with_uris else columns[1:]
        place = self._lists[split]
        read = _csv_batches if place.path.endswith(CSV_SUFFIXES) else _parquet_batches
        try:
            for batch in read(place, columns, chosen):
                nothing = pa.nulls(batch.num_rows, pa.string())
                uris = batch.column(self.spec.uri_column) if with_uris else nothing
                labels = batch.column(columns[1]) if len(columns) > 1 else nothing
                yield uris, labels
        except _ColumnError as error:
            raise self._column_error(split, error) from error
        except FileNotFoundError as error:
            raise PoolError(f"{self._where(split)}: no such file; give a .csv or .parquet list") from error
        except (pa.ArrowException, OSError) as error:
            raise PoolError(f"{self._where(split)}: {one_line(error)}; mend the list") from error

    def _where(self, split: Split) -> str:
        return f"data.{'path' if split == 'pool' else 'test_path'} {self._lists[split].uri!r}"

    def _column_error(self, split: Split, error: _ColumnError) -> PoolError:
        if error.column == self.spec.uri_column:
            return PoolError(
                f"data.uri_column {error.column!r}: {error}, in {self._where(split)}; name one of paths"
            )
        return self._label_error(split, str(error))

    def _label_error(self, split: Split, what: str) -> PoolError:
        return PoolError(
            f"data.label_column {self.spec.label_column!r}: {what}, in {self._where(split)}; name a column "
            "of class numbers or names, or null for a pool without labels"
        )


class _ColumnError(Exception):
    def __init__(self, column: str, what: str) -> None:
        super().__init__(what)
        self.column = column


def _csv_batches(place: Location, columns: list[str], chosen: list[str]) -> Iterator[pa.RecordBatch]:
    # Arrow's threads do not count rows: without them a complaint always says which row is meant, as fast.
    reading = csv.ReadOptions(use_threads=False)
    with place.filesystem.open_input_stream(place.path, compression=None) as stream:
        header = csv.open_csv(stream, reading).schema.names
    _require(columns, header)
    # Everything is text: a column that is guessed from its first block may turn out another later.
    convert = csv.ConvertOptions(
        include_columns=chosen,
        column_types=dict.fromkeys(chosen, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    with place.filesystem.open_input_stream(place.path, compression=None) as stream:
        yield from csv.open_csv(stream, reading, convert_options=convert)


def _parquet_batches(place: Location, columns: list[str], chosen: list[str]) -> Iterator[pa.RecordBatch]:
    with open_parquet(place.path, filesystem=place.filesystem) as file:
        schema = file.schema_arrow
        _require(columns, schema.names)
        for column in columns:
            if label_kind(schema.field(column).type) is None or (
                column == columns[0] and label_kind(schema.field(column).type) != "string"
            ):
                raise _ColumnError(column, f"it holds {schema.field(column).type}")
        for batch in file.iter_batches(ROWS_PER_TABLE, columns=chosen):
            yield pa.RecordBatch.from_arrays(
                [array.cast(pa.string()) for array in batch.columns], batch.schema.names
            )


def _require(columns: list[str], there: list[str]) -> None:
    for column in columns:
        if column not in there:
            raise _ColumnError(column, f"no such column among {', '.join(there)}")


def _absolute(uri: str | None, folder: str) -> str:
    if uri is None or not uri.strip():
        return ""
    if "://" in uri or uri.startswith("/"):
        return uri
    scheme, separator, path = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(f"{path}/{uri}")


def _read(place: tuple[tuple[fs.FileSystem, str] | UnreadableImage, str]) -> Raw:
    found, uri = place
    return found if isinstance(found, UnreadableImage) else read_file(*found, uri)

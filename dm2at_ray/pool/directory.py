"""The directory of a packed pool: `pool.json`, the parts of its manifest, and its shards of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from dm2at_ray.atomic_output import open_output
from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.fetch import store_error
from dm2at_ray.pool.location import Location, is_store_error, one_line
from dm2at_ray.pool.shard import ShardWriter

CATALOG_FILE = "pool.json"
BUILD_FOLDER = "build"
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("hash", pa.binary(16)),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("duplicate_of", pa.int64()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("origin_row", pa.int64(), nullable=False),
    ]
)
"""Columns of the manifest.

uri, row: the shard, relative to the directory, and the row in it; "" and -1 for an image set aside.
status: "ok" or "rejected"; reason: why it was set aside.
hash: BLAKE2b of 128 bits, see `content_hash`; null where the image was set aside.
size: bytes of the encoded image in the shard; 0 where it was set aside.
duplicate_of: the lowest id with the same hash, where that is another one.
origin, origin_row: uri and row in the source that it was packed from.
"""


class PoolDirectory:
    """A pool as `dm2at pool build` packs it, on any pyarrow filesystem.

    ::

        pool.json                      what is valid; written last and at once, so that whatever it does not
                                       name does not count
        manifest/part-00000.parquet    MANIFEST_SCHEMA; 65,536 rows, but for the last part of each addition
        shards/00000.parquet           sample_id, image (encoded bytes), label; about 128 MiB, in row groups
                                       of about 4 MiB
        build/                         while something is being packed: what a later call goes on from

    Sample ids are places in the listing and never change: an addition writes new parts and shards only.
    An image set aside keeps its id and has no row in a shard.

    Attributes:
        place: Where it is.
    """

    def __init__(self, place: Location) -> None:
        self.place = place

    @classmethod
    def at(cls, path: str, field: str = "data.path") -> PoolDirectory:
        """The directory at a path or URI, which need not exist; `field` is what an error calls it."""
        return cls(Location.of(path, field))

    def catalog(self) -> Catalog:
        """What is in it now.

        Raises:
            PoolError: There is no pool, or one that this version cannot read.
        """
        found = self.find_catalog()
        if found is None:
            begun = self.exists(f"{BUILD_FOLDER}/request.json")
            what = (
                "its build is not done; run the same `dm2at pool build` again" if begun else "no pool there"
            )
            raise PoolError(
                f"pool {self.place.uri!r}: {what}"
                + ("" if begun else f" (no {CATALOG_FILE}); make one by `dm2at pool build`")
            )
        return found

    def find_catalog(self) -> Catalog | None:
        """What is in it now; None where there is no pool.

        Raises:
            PoolError: One that cannot be read.
        """
        try:
            return Catalog.from_json(self.read_json(CATALOG_FILE))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            if is_store_error(error):
                raise store_error(f"{self.place.uri}/{CATALOG_FILE}", error) from error
            raise PoolError(
                f"pool {self.place.uri!r}: {CATALOG_FILE}: {one_line(error)}; take the version of this "
                "package that packed it, or pack it again"
            ) from error

    def write_catalog(self, catalog: Catalog) -> None:
        """Make valid what was written before."""
        self.write_json(CATALOG_FILE, catalog.to_json())

    def write_part(self, index: int, table: pa.Table) -> None:
        """Write a part of the manifest."""
        self.write_table(part_file(index), table.cast(MANIFEST_SCHEMA))

    def parts(
        self, catalog: Catalog, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[pa.Table]:
        """The manifest's rows of the sample ids from `start` to before `stop`, a part at a time.

        Raises:
            PoolError: A part cannot be read.
        """
        stop = catalog.size if stop is None else stop
        first = catalog.part_of(start) if start < stop else len(catalog.parts)
        for index in range(first, len(catalog.parts)):
            part = catalog.parts[index]
            if part.first_id >= stop:
                return
            table = self._read_part(index, part.rows, columns)
            begin = max(0, start - part.first_id)
            yield table.slice(begin, min(part.rows, stop - part.first_id) - begin)

    @contextmanager
    def shard_writer(self, index: int) -> Iterator[ShardWriter]:
        """Write a shard, which is there once the block has ended without an error."""
        with (
            open_output(self.place.filesystem, self._path(shard_file(index))) as stream,
            ShardWriter(stream) as writer,
        ):
            yield writer

    def open_shard(self, index: int) -> pq.ParquetFile:
        """A shard to read."""
        return open_parquet(self._path(shard_file(index)), filesystem=self.place.filesystem)

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there."""
        return self.place.filesystem.get_file_info(self._path(name)).type != fs.FileType.NotFound

    def names(self, folder: str) -> set[str]:
        """Names of what lies directly in a folder; nothing where there is none. "" is the directory."""
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        return {info.base_name for info in self.place.filesystem.get_file_info(selector)}

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it."""
        info = self.place.filesystem.get_file_info(self._path(name))
        if info.type == fs.FileType.Directory:
            self.place.filesystem.delete_dir(info.path)
        elif info.type == fs.FileType.File:
            self.place.filesystem.delete_file(info.path)

    def read_json(self, name: str) -> Any:
        """Read a JSON file; `FileNotFoundError` where it is not there."""
        with self.place.filesystem.open_input_stream(self._path(name), compression=None) as stream:
            return json.loads(stream.read())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all."""
        with open_output(self.place.filesystem, self._path(name)) as stream:
            stream.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a Parquet file."""
        with open_parquet(self._path(name), filesystem=self.place.filesystem) as file:
            return file.read(columns=None if columns is None else list(columns))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file whole or not at all."""
        with open_output(self.place.filesystem, self._path(name)) as stream:
            pq.write_table(table, stream)

    def _path(self, name: str) -> str:
        return f"{self.place.path.rstrip('/')}/{name}" if name else self.place.path

    def _read_part(self, index: int, rows: int, columns: Sequence[str] | None) -> pa.Table:
        try:
            table = self.read_table(part_file(index), columns)
        except (OSError, pa.ArrowException, KeyError) as error:
            if is_store_error(error):
                raise store_error(f"{self.place.uri}/{part_file(index)}", error) from error
            raise self._broken_part(index, one_line(error)) from error
        if table.num_rows != rows:
            raise self._broken_part(index, f"{table.num_rows} rows, not {rows}")
        return table

    def _broken_part(self, index: int, what: str) -> PoolError:
        return PoolError(
            f"pool {self.place.uri!r}: {part_file(index)}: {what}; restore the file, or pack the pool again"
        )


def part_file(index: int) -> str:
    """Name of a manifest part in the directory.

    Examples:
        >>> part_file(3), shard_file(12)
        ('manifest/part-00003.parquet', 'shards/00012.parquet')
    """
    return f"manifest/part-{index:05d}.parquet"


def shard_file(index: int) -> str:
    """Name of a shard in the directory."""
    return f"shards/{index:05d}.parquet"

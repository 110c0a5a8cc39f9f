"""The shards of a source, each listed on its own into a file of the folder of an addition in the works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dm2at_ray.atomic_output import open_output
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.directory import BUILD_FOLDER, PoolDirectory
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA, ROWS_PER_TABLE, Split
from dm2at_ray.pool.sources.labels import MAX_CLASSES
from dm2at_ray.pool.sources.shards import Shard, ShardedSource

_SHARD = b"shard"


@dataclass(frozen=True)
class ListedShard:
    """What listing a shard has found.

    Attributes:
        shard: Of the source.
        images: In it.
        labels: Each of its labels once, as the source has them; where there are more than any source may
            have, only so many that this shows.
    """

    shard: Shard
    images: int
    labels: pa.Array


class Listing:
    """The listing of a source in the folder `build` of a pool directory.

    ::

        build/listing-0-00000.parquet    uri, row and label, as `ShardedSource.list_shard` gives them

    A shard that was listed before is not listed again, so long as nobody has changed it.

    Args:
        directory: The pool directory.
        source: Number of the source in the addition.
    """

    def __init__(self, directory: PoolDirectory, source: int) -> None:
        self._directory = directory
        self._source = source

    def list_shard(self, source: ShardedSource, split: Split, index: int, shard: Shard) -> ListedShard:
        """List a shard, unless it is done; a table of it is in memory at a time.

        Args:
            source: What to list.
            split: Of the source.
            index: Place of the shard among all.
            shard: The shard.

        Raises:
            PoolError: It cannot be read.
        """
        if not self._is_listed(index, shard):
            self._write(index, shard, source.list_shard(split, shard.path))
        images, labels = 0, pa.nulls(0)
        for table in self.tables(index):
            images += table.num_rows
            if len(labels) <= MAX_CLASSES:
                found = pa.chunked_array([*table["label"].chunks, labels.cast(table["label"].type)])
                labels = pc.unique(found.drop_null())
        return ListedShard(shard, images, labels)

    def tables(self, index: int) -> Iterator[pa.Table]:
        """What was listed of a shard, at most 65,536 images at a time."""
        with self._open(index) as file:
            for batch in file.iter_batches(ROWS_PER_TABLE):
                yield pa.Table.from_batches([batch]).replace_schema_metadata()

    def _write(self, index: int, shard: Shard, tables: Iterator[pa.Table]) -> None:
        first = next(tables, None)
        schema = (ENTRY_SCHEMA if first is None else first.schema).with_metadata({_SHARD: _key(shard)})
        with (
            open_output(self._directory.place.filesystem, self._path(index)) as stream,
            pq.ParquetWriter(stream, schema) as writer,
        ):
            if first is not None:
                writer.write_table(first.cast(schema))
            for table in tables:
                writer.write_table(table.cast(schema))

    def _is_listed(self, index: int, shard: Shard) -> bool:
        if shard.changed is None:
            return False
        try:
            with self._open(index) as file:
                return (file.schema_arrow.metadata or {}).get(_SHARD) == _key(shard)
        except FileNotFoundError:
            return False

    def _open(self, index: int) -> pq.ParquetFile:
        return open_parquet(self._path(index), filesystem=self._directory.place.filesystem)

    def _path(self, index: int) -> str:
        folder = f"{self._directory.place.path.rstrip('/')}/{BUILD_FOLDER}"
        return f"{folder}/listing-{self._source}-{index:05d}.parquet"


def _key(shard: Shard) -> bytes:
    """Tells whether a file is the one that was listed."""
    return json.dumps([shard.path, shard.size, shard.changed]).encode()

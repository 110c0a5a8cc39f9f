"""The pool's manifest: every image under its sample id, with what is wrong with those set aside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.content import HASH_BYTES, content_hash
from dm2at_ray.pool.decode import UnreadableImage, decode
from dm2at_ray.pool.duplicates import find_duplicates
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources.base import ROWS_PER_TABLE, Source

PART_ROWS = ROWS_PER_TABLE
OK = "ok"
REJECTED = "rejected"
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("hash", pa.binary(HASH_BYTES)),
    ]
)
DUPLICATES_SCHEMA = pa.schema([("sample_id", pa.int64()), ("duplicate_of", pa.int64())])
DUPLICATES = "duplicates.parquet"
_PART_NAME = re.compile(r"part-(\d{5,})\.parquet")
_READ_AT_ONCE = 256
_CACHED_PARTS = 3
_READERS = 16


def part_name(index: int) -> str:
    """File name of the part that holds the ids from ``index * PART_ROWS`` on.

    Examples:
        >>> part_name(3)
        'part-00003.parquet'
    """
    return f"part-{index:05d}.parquet"


def check_part(source: Source, table: pa.Table, first_id: int, image_size: int, channels: int) -> pa.Table:
    """Read and decode every image of one part, and set aside what is unreadable.

    Args:
        source: where the images are.
        table: at most ``PART_ROWS`` entries as ``Source.tables`` gives them.
        first_id: sample id of the first entry; the others follow.
        image_size: as the pool will be decoded.
        channels: as the pool will be decoded.

    Returns:
        The part as a ``SCHEMA`` table. At most 256 images are in memory at once.
    """
    reasons: list[str | None] = []
    hashes: list[bytes | None] = []
    for start in range(0, table.num_rows, _READ_AT_ONCE):
        batch = table.slice(start, _READ_AT_ONCE)
        for raw in source.read(batch.column("uri").to_pylist(), batch.column("row").to_pylist()):
            try:
                decode(raw, image_size, channels)
                assert not isinstance(raw, UnreadableImage)
            except UnreadableImage as unreadable:
                reasons.append(unreadable.reason)
                hashes.append(None)
            else:
                reasons.append(None)
                hashes.append(content_hash(raw))
    columns = {
        "sample_id": np.arange(first_id, first_id + table.num_rows),
        **{name: table.column(name) for name in ("uri", "row", "label")},
        "status": [OK if reason is None else REJECTED for reason in reasons],
        "reason": reasons,
        "hash": hashes,
    }
    return pa.table(columns, schema=SCHEMA)


@dataclass(frozen=True)
class Counts:
    """How many images a manifest has: all, those of either status, and those ok whose label is known."""

    total: int
    ok: int
    rejected: int
    labeled: int


def part_of_checked(table: pa.Table, first_id: int) -> pa.Table:
    """One part as `SCHEMA`, of entries that `Source.checked` gives: no image is read."""
    ids = pa.array(np.arange(first_id, first_id + table.num_rows))
    return table.append_column("sample_id", ids).select(SCHEMA.names).cast(SCHEMA)


def rows_of_part(filesystem: fs.FileSystem, path: str) -> int:
    """Rows of a part of a manifest; 0 where there is none."""
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return 0
    return _num_rows(filesystem, path)


class Manifest:
    """A folder of manifest parts, read part by part.

    Holds at most three parts in memory (about 10 MB each), whatever the size of the pool.

    Attributes:
        size: number of sample ids, those set aside included.
        num_parts: number of files.
    """

    def __init__(self, place: Location, part_rows: list[int]) -> None:
        self._place = place
        self.size = sum(part_rows)
        self.num_parts = len(part_rows)
        self._parts: LruCache[int, pa.Table] = LruCache(_CACHED_PARTS)

    @classmethod
    def open(cls, filesystem: fs.FileSystem, directory: str) -> Manifest:
        """The manifest in ``directory``; reads the files' footers only.

        Raises:
            PoolError: there is none, or parts are missing or incomplete.
        """
        return cls._open(Location(filesystem, directory.rstrip("/"), directory.rstrip("/")))

    @classmethod
    def from_uri(cls, uri: str) -> Manifest:
        """The manifest at a path or filesystem URI, for workers that know no more than that."""
        return cls._open(Location.of(uri, "pool manifest"))

    @classmethod
    def _open(cls, place: Location) -> Manifest:
        mend = "delete the folder, so that the manifest is built again"
        try:
            infos = place.filesystem.get_file_info(fs.FileSelector(place.path))
            names = sorted(info.base_name for info in infos if _PART_NAME.fullmatch(info.base_name))
            with ThreadPoolExecutor(_READERS) as readers:
                paths = [f"{place.path}/{part_name(index)}" for index in range(len(names))]
                part_rows = list(readers.map(lambda path: _num_rows(place.filesystem, path), paths))
        except (OSError, pa.ArrowException) as error:
            raise PoolError(f"pool manifest {place.uri!r}: {one_line(error)}; {mend}") from error
        if not part_rows:
            raise PoolError(f"pool manifest {place.uri!r}: no parts there; {mend}")
        for index, rows in enumerate(part_rows):
            if rows != PART_ROWS and not (index == len(part_rows) - 1 and 0 < rows < PART_ROWS):
                raise PoolError(f"pool manifest {place.uri!r}: {part_name(index)} has {rows} rows; {mend}")
        return cls(place, part_rows)

    def rows(self, ids: np.ndarray) -> pa.Table:
        """The manifest's rows for sample ids (n,) int64, in their order; reads the parts they are in."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size == 0:
            return SCHEMA.empty_table()
        if ids.min() < 0 or ids.max() >= self.size:
            raise ValueError(f"sample ids must lie in [0, {self.size}), got {ids.min()} to {ids.max()}")
        order = np.argsort(ids, kind="stable")
        parts, starts = np.unique(ids[order] // PART_ROWS, return_index=True)
        tables = [
            self._parts.get(int(part), self._read_part).take(ids[places] % PART_ROWS)
            for part, places in zip(parts, np.split(order, starts[1:]), strict=True)
        ]
        return pa.concat_tables(tables).take(np.argsort(order))

    def rejected(self, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
        """All rows that were set aside, by id; of these columns."""
        parts = (self._read_part(index, [*{*columns, "status"}]) for index in range(self.num_parts))
        tables = [part.filter(pc.equal(part["status"], REJECTED)).select(columns) for part in parts]
        return pa.concat_tables(tables).combine_chunks()

    def duplicates(self) -> pa.Table:
        """Images that are in the pool under a smaller id as well (`DUPLICATES_SCHEMA`), by id."""
        path = f"{self._place.path}/{DUPLICATES}"
        if self._place.filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return DUPLICATES_SCHEMA.empty_table()
        with open_parquet(path, filesystem=self._place.filesystem) as file:
            return file.read()

    def find_duplicates(self) -> pa.Table:
        """Compare all images by their hashes (`DUPLICATES_SCHEMA`); see `find_duplicates` for the memory."""

        def hashes() -> Iterator[pa.Table]:
            return (self._read_part(index, ["sample_id", "hash"]) for index in range(self.num_parts))

        columns = find_duplicates(hashes, self.size)
        return pa.table([pa.array(column, pa.int64()) for column in columns], schema=DUPLICATES_SCHEMA)

    def counts(self) -> Counts:
        """Counts over all parts, read one at a time."""
        ok = labeled = 0
        for index in range(self.num_parts):
            table = self._read_part(index, columns=["status", "label"])
            is_ok = pc.equal(table.column("status"), OK)
            ok += pc.sum(is_ok).as_py()
            labeled += pc.sum(pc.and_(is_ok, table.column("label").is_valid())).as_py()
        return Counts(total=self.size, ok=ok, rejected=self.size - ok, labeled=labeled)

    def _read_part(self, index: int, columns: list[str] | None = None) -> pa.Table:
        path = f"{self._place.path}/{part_name(index)}"
        # ParquetFile, not read_table: that would take folder names such as `a=b` for partition columns.
        with open_parquet(path, filesystem=self._place.filesystem) as part:
            return part.read(columns=columns)


def read_columns(filesystem: fs.FileSystem, directory: str, part: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of one part of the manifest in a directory, for who wants a few ids and no more.

    Raises:
        PoolError: There is no such part, or it cannot be read.
    """
    path = f"{directory}/{part_name(part)}"
    try:
        with open_parquet(path, filesystem=filesystem) as file:
            return file.read(columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise PoolError(
            f"pool manifest {directory!r}: {part_name(part)}: {one_line(error)}; see that the run is whole"
        ) from error


def _num_rows(filesystem: fs.FileSystem, path: str) -> int:
    with open_parquet(path, filesystem=filesystem) as part:
        return part.metadata.num_rows

"""Shards: Parquet files of encoded images in small row groups, written image by image."""

from __future__ import annotations

from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_BYTES = 4 << 20
SHARD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int64()),
    ]
)


class ShardWriter:
    """Writes images in the order in which they come; holds one row group of them.

    The bytes of the file depend on the images alone: a row group ends with the image that fills it.

    Args:
        stream: Where to.

    Attributes:
        rows: Images written so far.
        bytes: Their encoded bytes.
    """

    def __init__(self, stream: IO[bytes] | Any) -> None:
        # Images are compressed already, and minima of encoded bytes say nothing.
        self._writer = pq.ParquetWriter(
            stream, SHARD_SCHEMA, compression="none", use_dictionary=False, write_statistics=["sample_id"]
        )
        self._held: list[tuple[int, bytes, int | None]] = []
        self._held_bytes = 0
        self.rows = 0
        self.bytes = 0

    def append(self, sample_id: int, image: bytes, label: int | None) -> int:
        """Add an image; returns its row."""
        self._held.append((sample_id, image, label))
        self._held_bytes += len(image)
        self.bytes += len(image)
        self.rows += 1
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()
        return self.rows - 1

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._held, strict=True)]
        self._held, self._held_bytes = [], 0
        table = pa.table(columns, schema=SHARD_SCHEMA)
        self._writer.write_table(table, row_group_size=table.num_rows)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._held:
            self._flush()
        self._writer.close()

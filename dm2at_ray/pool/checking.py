"""Images held against what is known of them: every one read, hashed and decoded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.content import has_hash
from dm2at_ray.pool.decode import UnreadableImage, require_readable
from dm2at_ray.pool.directory import PoolDirectory, shard_file
from dm2at_ray.pool.fetch import store_error
from dm2at_ray.pool.location import is_store_error, one_line
from dm2at_ray.pool.packing import read_ahead
from dm2at_ray.pool.sources.base import Source

BROKEN_SCHEMA = pa.schema(
    [("sample_id", pa.int64()), ("uri", pa.string()), ("row", pa.int64()), ("reason", pa.string())]
)
_WANTED = ["sample_id", "uri", "row", "label", "hash"]


def check_shard(directory: PoolDirectory, catalog: Catalog, index: int, channels: int) -> pa.Table:
    """Compare a shard with the manifest: ids, labels and hashes of its images, and whether they decode.

    Holds one row group, and the manifest's rows of the shard.

    Args:
        directory: The pool.
        catalog: What is in it.
        index: Of the shard.
        channels: With which decoding is tried: 1 or 3.

    Returns:
        `BROKEN_SCHEMA`: the images that are not as they were packed.

    Raises:
        PoolError: The manifest cannot be read, or the store cannot be used: that breaks no image.
    """
    shard, uri = catalog.shards[index], f"{directory.place.uri.rstrip('/')}/{shard_file(index)}"
    parts = list(directory.parts(catalog, _WANTED, shard.first_id, shard.first_id + shard.ids))
    expected = pa.concat_tables(parts)
    expected = expected.filter(pa.array(expected["row"].to_numpy() >= 0)).combine_chunks()
    reasons: list[str | None] = ["missing from the shard"] * expected.num_rows
    start = 0
    try:
        with directory.open_shard(index) as file:
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                found = _group_reasons(file, group, expected.slice(start, rows), channels, uri)
                reasons[start : start + rows] = found[: expected.num_rows - start]
                start += rows
    except FileNotFoundError:
        reasons[start:] = ["no such file"] * (len(reasons) - start)
    except (OSError, pa.ArrowException) as error:
        if is_store_error(error):
            raise store_error(uri, error) from error
        reasons[start:] = [one_line(error)] * (len(reasons) - start)
    is_broken = np.array([reason is not None for reason in reasons], bool)
    broken = expected.filter(pa.array(is_broken))
    return pa.table(
        {
            "sample_id": broken["sample_id"],
            "uri": [uri] * broken.num_rows,
            "row": broken["row"],
            "reason": [reason for reason in reasons if reason is not None],
        },
        schema=BROKEN_SCHEMA,
    )


def check_entries(source: Source, entries: pa.Table, first_id: int, channels: int) -> pa.Table:
    """Read and decode the images of a source.

    Args:
        source: Where they are.
        entries: As `Source.entries` gives them.
        first_id: Place of the first one in the listing.
        channels: With which decoding is tried: 1 or 3.

    Returns:
        `BROKEN_SCHEMA`: those that cannot be decoded.
    """
    uris, rows = entries["uri"].to_pylist(), entries["row"].to_pylist()
    broken = [
        {"sample_id": first_id + place, "uri": uris[place], "row": rows[place], "reason": reason}
        for place, raw in enumerate(read_ahead(source, uris, rows))
        if (reason := _undecodable(raw, channels)) is not None
    ]
    return pa.Table.from_pylist(broken, schema=BROKEN_SCHEMA)


def _group_reasons(
    file: pq.ParquetFile, group: int, expected: pa.Table, channels: int, uri: str
) -> list[str | None]:
    """What is wrong with each image of a row group that the manifest knows."""
    try:
        table = file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        if is_store_error(error):
            raise store_error(uri, error) from error
        return [one_line(error)] * expected.num_rows
    return [_difference(is_, was, channels) for is_, was in zip(_rows(table), _rows(expected), strict=False)]


def _rows(table: pa.Table) -> Iterator[dict]:
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()


def _difference(image: dict, expected: dict, channels: int) -> str | None:
    if image["sample_id"] != expected["sample_id"]:
        return f"sample {image['sample_id']} is in its place"
    if image["label"] != expected["label"]:
        return f"label {image['label']} is in the shard, {expected['label']} in the manifest"
    if not has_hash(image["image"], expected["hash"]):
        return "other content than was packed"
    return _undecodable(image["image"], channels)


def _undecodable(raw: bytes | np.ndarray | UnreadableImage, channels: int) -> str | None:
    try:
        require_readable(raw, channels)
    except UnreadableImage as unreadable:
        return unreadable.reason
    return None

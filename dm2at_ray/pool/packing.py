"""Images of a source into a shard, one by one: read, decoded once to know that it works, hashed, written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from dm2at_ray.pool.content import content_hash, encoded
from dm2at_ray.pool.decode import Raw, UnreadableImage, require_readable
from dm2at_ray.pool.directory import MANIFEST_SCHEMA, shard_file
from dm2at_ray.pool.manifest import OK, REJECTED
from dm2at_ray.pool.shard import ShardWriter
from dm2at_ray.pool.sources.base import Source

READ_BYTES = 4 << 20
"""Encoded bytes that are asked for at once; twice as much is held, as the next ones are read meanwhile."""

CHANNELS = 3
"""With which decoding is tried where nothing is known of the images; gray ones become colour, too."""

_MOST_AT_ONCE = 64  # A folder of icons may go on with photographs.
_SPOTS = 4
_IN_A_ROW = 8
_UNKNOWN_BYTES = 65_536


def pack(
    source: Source,
    entries: pa.Table,
    first_id: int,
    shard: int,
    writer: ShardWriter,
    channels: int = CHANNELS,
    mean_bytes: float = _UNKNOWN_BYTES,
) -> pa.Table:
    """Write the images of `entries` into a shard.

    Memory: the images that are read at once (about `READ_BYTES`, from the sizes of those before them),
    the next ones, one decoded image, and the row group that `writer` holds; and the rows of the result.

    Args:
        source: Where the images are.
        entries: As `Source.entries` gives them.
        first_id: Sample id of the first entry; the others follow.
        shard: Index of the shard that `writer` writes.
        writer: Takes the images.
        channels: With which decoding is tried: 1 or 3.
        mean_bytes: What an image is expected to have.

    Returns:
        The manifest's rows, without what is only known of all: `duplicate_of` is null throughout.
    """
    uris, places, labels = (entries.column(name).to_pylist() for name in ("uri", "row", "label"))
    rows, reasons, hashes, sizes = [], [], [], []
    for place, raw in enumerate(read_ahead(source, uris, places, mean_bytes)):
        row, reason, digest, size = -1, None, None, 0
        try:
            require_readable(raw, channels)
            assert not isinstance(raw, UnreadableImage)
            image = encoded(raw)
        except UnreadableImage as unreadable:
            reason = unreadable.reason
        else:
            digest, size = content_hash(raw), len(image)
            row = writer.append(first_id + place, image, labels[place])
        rows.append(row)
        reasons.append(reason)
        hashes.append(digest)
        sizes.append(size)
    taken = np.asarray(rows) >= 0
    columns = {
        "sample_id": np.arange(first_id, first_id + len(rows)),
        "uri": np.where(taken, shard_file(shard), "").tolist(),
        "row": rows,
        "label": entries.column("label"),
        "status": np.where(taken, OK, REJECTED).tolist(),
        "reason": reasons,
        "hash": hashes,
        "size": sizes,
        "duplicate_of": pa.nulls(len(rows), pa.int64()),
        "origin": entries.column("uri"),
        "origin_row": entries.column("row"),
    }
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def mean_bytes(source: Source, entries: pa.Table) -> float:
    """Mean size of the images in encoded bytes, from those at four spots, eight in a row at each.

    Neighbours, because a source may read and keep many of them at once.
    """
    total = entries.num_rows
    starts = np.unique(np.linspace(0, max(0, total - _IN_A_ROW), _SPOTS).astype(int))
    places = np.unique([start + step for start in starts for step in range(min(_IN_A_ROW, total))])
    if total > _SPOTS * _IN_A_ROW * 4:
        chosen = entries.take(places)
    else:  # Of few, which may be large, no more than a third is read twice.
        chosen = entries.take(places[:: max(1, len(places) * 4 // max(1, total))])
    sizes = []
    for uri, row in zip(chosen.column("uri").to_pylist(), chosen.column("row").to_pylist(), strict=True):
        (raw,) = source.read([uri], [row])
        try:
            sizes.append(0 if isinstance(raw, UnreadableImage) else len(encoded(raw)))
        except UnreadableImage:
            sizes.append(0)
    whole = [size for size in sizes if size]
    return float(np.mean(whole)) if whole else float(_UNKNOWN_BYTES)


def read_ahead(
    source: Source, uris: list[str], rows: list[int], expected: float = _UNKNOWN_BYTES
) -> Iterator[Raw]:
    """The raw images in order; the next ones are read while these are worked on."""
    start, count = 0, _at_once(expected)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(source.read, uris[:count], rows[:count])
        while start < len(uris):
            images = ahead.result()
            start += len(images)
            count = _at_once(sum(map(_bytes, images)) / len(images))
            if start < len(uris):
                ahead = reader.submit(source.read, uris[start : start + count], rows[start : start + count])
            yield from images


def _at_once(mean: float) -> int:
    return int(np.clip(READ_BYTES / max(1.0, mean), 1, _MOST_AT_ONCE))


def _bytes(raw: Raw) -> int:
    if isinstance(raw, UnreadableImage):
        return 0
    return len(raw) if isinstance(raw, bytes) else raw.nbytes

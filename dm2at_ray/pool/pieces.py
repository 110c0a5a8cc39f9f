"""A listing cut into pieces of work: each becomes one shard of about the same size."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.pool.sources.base import rebatched

SHARD_BYTES = 128 << 20
LEAST_SHARD_BYTES = 8 << 20
LEAST_SHARDS = 8
"""A small source makes this many shards, smaller ones, so that it is packed in parallel too."""

MOST_ROWS = 262_144


@dataclass(frozen=True)
class Piece:
    """What one task packs.

    Attributes:
        entries: Of the source, in its order.
        mean_bytes: What an image of these is expected to have.
    """

    entries: pa.Table
    mean_bytes: float

    def digest(self) -> str:
        """Tells other entries from these: of their uris, rows and labels."""
        table = self.entries.combine_chunks()
        digest = hashlib.blake2b(digest_size=16)
        for uri in pc.dictionary_encode(table.column("uri")).chunks:
            digest.update("\n".join(uri.dictionary.to_pylist()).encode())
            digest.update(uri.indices.to_numpy().tobytes())
        for name in ("row", "label"):
            digest.update(table.column(name).fill_null(-1).to_numpy().tobytes())
        return digest.hexdigest()


def cut(
    tables: Iterator[pa.Table],
    mean_bytes: Callable[[int, pa.Table], float],
    shard_bytes: int = SHARD_BYTES,
    most_rows: int = MOST_ROWS,
) -> Iterator[Piece]:
    """Cut the entries of one source into pieces of about `shard_bytes`, from samples of their sizes.

    Where the cuts are depends on the entries and what `mean_bytes` says alone. Holds at most `most_rows`
    entries beside the table that the source has just given.

    Args:
        tables: The entries, as `Source.entries` gives them.
        mean_bytes: Index of a window (up to 65,536 entries) and the window -> mean size of its images.
        shard_bytes: Of a shard, where there are enough images.
        most_rows: Entries of a piece.
    """
    numbered = enumerate(rebatched(tables))
    held: deque[Piece] = deque()

    def fill() -> bool:
        """Hold enough for the largest piece; whether there is more than that."""
        while sum(window.entries.num_rows for window in held) < most_rows:
            index, window = next(numbered, (0, None))
            if window is None:
                return False
            held.append(Piece(window, mean_bytes(index, window)))
        return True

    if fill():
        goal = float(shard_bytes)
    else:
        total = sum(window.entries.num_rows * window.mean_bytes for window in held)
        goal = float(np.clip(total / LEAST_SHARDS, min(LEAST_SHARD_BYTES, shard_bytes), shard_bytes))
    while held:
        yield _next_piece(held, goal, most_rows)
        fill()


def _next_piece(held: deque[Piece], goal: float, most_rows: int) -> Piece:
    taken: list[pa.Table] = []
    rows, size = 0, 0.0
    while held and size < goal and rows < most_rows:
        window = held.popleft()
        wanted = min(math.ceil((goal - size) / window.mean_bytes), most_rows - rows)
        if wanted < window.entries.num_rows:
            held.appendleft(Piece(window.entries.slice(wanted), window.mean_bytes))
        taken.append(window.entries.slice(0, wanted))
        rows += taken[-1].num_rows
        size += taken[-1].num_rows * window.mean_bytes
    return Piece(pa.concat_tables(taken).combine_chunks(), size / rows)

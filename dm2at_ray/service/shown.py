"""Which samples of a run may be looked at: those that a round asked for, and their labeled neighbours."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.service.once import SharedCache
from dm2at_ray.service.roots import OwnFiles
from dm2at_ray.store import RoundDirectory, RunDirectory

_KEPT_BYTES = 32 << 20
"""Of ids: those of two hundred rounds of ten thousand queries, with a neighbour each."""


class ShownSamples:
    """Looks a sample up among those of the rounds, the last round first; any number of threads may.

    Args:
        own: Knows which files of the runs are their own.
    """

    def __init__(self, own: OwnFiles) -> None:
        self._own = own
        self._ids: SharedCache[tuple[object, ...], np.ndarray] = SharedCache(
            _KEPT_BYTES, lambda ids: ids.nbytes
        )

    def round_of(self, run: RunDirectory, sample_id: int) -> RoundDirectory | None:
        """The last round that shows a sample, as a query or as a neighbour of one; None if none does."""
        for round_ in reversed(run.rounds()):
            ids = self._shown(run, round_)
            place = int(np.searchsorted(ids, sample_id))
            if place < len(ids) and ids[place] == sample_id:
                return round_
        return None

    def _shown(self, run: RunDirectory, round_: RoundDirectory) -> np.ndarray:
        """Ascending ids (n,) int64 of what a round shows."""
        files = round_.files
        infos = files.filesystem.get_file_info([files.path("queries.parquet"), files.path("context.parquet")])
        if infos[0].type != fs.FileType.File:
            return np.empty(0, np.int64)
        for name, info in zip(("queries.parquet", "context.parquet"), infos, strict=True):
            if info.type == fs.FileType.File:
                self._own.require(run, f"rounds/{round_.index:04d}/{name}", stamp(info))
        # Neither is ever changed, but the run may have been deleted and begun anew.
        key = (run.uri, round_.index, *(stamp(info) for info in infos))
        return self._ids.get(key, lambda: _ids(round_, infos[1].type == fs.FileType.File))


def stamp(info: fs.FileInfo) -> tuple[int | None, int | None]:
    """What tells a file from another one that takes its place later."""
    return info.mtime_ns, info.size


def _ids(round_: RoundDirectory, with_neighbors: bool) -> np.ndarray:
    ids = [round_.query_ids()]
    if with_neighbors:
        near = round_.files.read_table("context.parquet", ["labeled_neighbor_ids"]).column(0)
        ids.append(pa.chunked_array([chunk.flatten() for chunk in near.chunks], pa.int64()).to_numpy())
    return np.unique(np.concatenate(ids))

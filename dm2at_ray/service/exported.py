"""Pictures that a round's own exports hold: the run has read them from the pool already."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from pyarrow import fs

from dm2at_ray.labeling.formats import FORMATS
from dm2at_ray.labeling.picture_files import NEIGHBORS, PICTURES
from dm2at_ray.labeling.pictures import SUFFIXES
from dm2at_ray.pool.fetch import read_file
from dm2at_ray.service.once import SharedCache
from dm2at_ray.service.roots import Roots
from dm2at_ray.service.shown import stamp
from dm2at_ray.store import RoundDirectory, RunDirectory

_KEPT_BYTES = 16 << 20
_ENDS = tuple(SUFFIXES.values())
_NAME = re.compile(r"(\d{1,18})(\.[a-z]+)")


class _Folder(NamedTuple):
    """Which pictures a folder has: their ids, ascending, and the place of each one's suffix in `_ENDS`."""

    ids: np.ndarray
    ends: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.ends.nbytes

    def name(self, sample_id: int) -> str | None:
        place = int(np.searchsorted(self.ids, sample_id))
        if place == len(self.ids) or self.ids[place] != sample_id:
            return None
        return f"{sample_id}{_ENDS[self.ends[place]]}"


class ExportedPictures:
    """Finds a sample's picture in the exports of a round that are whole; any number of threads may."""

    def __init__(self) -> None:
        self._folders: SharedCache[tuple[object, ...], _Folder] = SharedCache(
            _KEPT_BYTES, lambda folder: folder.nbytes
        )

    def find(self, run: RunDirectory, round_: RoundDirectory, sample_id: int, roots: Roots) -> bytes | None:
        """A picture's bytes; None where no export has it, or has a link to it that leads out of the roots."""
        files = round_.files
        marks = [f"export-{name}/{form.INDEX}" for name, form in FORMATS.items()]
        for mark, info in zip(marks, files.filesystem.get_file_info([*map(files.path, marks)]), strict=True):
            # The index is written last: without it the pictures may be half written.
            if info.type != fs.FileType.File:
                continue
            for part in (PICTURES, NEIGHBORS):
                folder = f"{mark.partition('/')[0]}/{part}"
                key = (run.uri, round_.index, folder, stamp(info))
                name = self._folders.get(key, lambda: _list(round_, folder)).name(sample_id)  # noqa: B023
                if name is not None and roots.hold_file(f"{_uri(run, round_)}/{folder}/{name}"):
                    raw = read_file(files.filesystem, files.path(f"{folder}/{name}"), name)
                    if isinstance(raw, bytes):
                        return raw
        return None


def _list(round_: RoundDirectory, folder: str) -> _Folder:
    found = [
        match for match in map(_NAME.fullmatch, round_.files.names(folder)) if match and match[2] in _ENDS
    ]
    ids = np.array([int(match[1]) for match in found], np.int64)
    order = np.argsort(ids, kind="stable")
    ends = np.array([_ENDS.index(match[2]) for match in found], np.uint8)
    return _Folder(ids[order], ends[order])


def _uri(run: RunDirectory, round_: RoundDirectory) -> str:
    return f"{run.uri.rstrip('/')}/rounds/{round_.index:04d}"

"""Pictures of queries, of their labeled neighbours, and of their adversarial twins."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import fs

from dm2at_ray.errors import ConfigError, PoolError, RunError
from dm2at_ray.pool import PART_ROWS, SourceSpec, UnreadableImage, part_name
from dm2at_ray.pool.content import content_hash, has_hash
from dm2at_ray.pool.decode import FORMATS, Raw
from dm2at_ray.pool.location import is_store_error, one_line
from dm2at_ray.pool.manifest import read_columns
from dm2at_ray.service.blobs import Blob, BlobCache
from dm2at_ray.service.browser_image import browser_image
from dm2at_ray.service.exported import ExportedPictures
from dm2at_ray.service.guarded import GuardedSource
from dm2at_ray.service.once import Once, SharedCache
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.roots import OwnFiles, Roots, require_own
from dm2at_ray.service.shared_source import SharedSource
from dm2at_ray.service.shown import ShownSamples, stamp
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.store.tensors import tensor_array
from dm2at_ray.store.twins import TwinGroup, read_twins, twin_groups

CACHE_BYTES = 1 << 30
MOST_OPEN = 4
"""Sources held open: each may keep a data set's pixels, or 256 MB of row groups."""
_KEPT_MANIFEST = 64 << 20
_KEPT_TWIN_GROUPS = 100_000
_KEPT_SPECS = 256
_LARGE = 4 << 20
"""Pixels."""
_SMALL_BYTES = 4096
"""Of so few bytes only a blank page is large, and as many as there are processors are decoded at once."""
_COLUMNS = ("uri", "row", "hash")

Picture = Blob


class Pictures:
    """Makes pictures for browsers, each once, and keeps them on the local disk; any thread may ask.

    Only what a round has asked for, or shown beside that, is made, and nothing is opened outside the run's
    own directory and the roots. Memory is bounded whatever the runs hold: a few sources are kept open, 16
    images are read at once of each, and large ones are decoded one at a time.

    Args:
        data_roots: Paths or URIs below which a run's images may lie.
        cache: A folder on the local disk, for this service alone.
        cache_bytes: Of the pictures kept there.
        most_open: Sources that are held open.
    """

    def __init__(
        self,
        data_roots: Sequence[str],
        cache: Path,
        *,
        cache_bytes: int = CACHE_BYTES,
        most_open: int = MOST_OPEN,
    ) -> None:
        self._roots = Roots(data_roots)
        # What an earlier service was allowed to open is not to be shown by this one.
        self._places = sorted(data_roots)
        self._blobs = BlobCache(cache / "pictures.sqlite", cache_bytes)
        self._once: Once[str, Blob] = Once()
        self._own = OwnFiles()
        self._shown = ShownSamples(self._own)
        self._exported = ExportedPictures()
        self._manifests: SharedCache[tuple[object, ...], pa.Table] = SharedCache(
            _KEPT_MANIFEST, lambda table: table.nbytes
        )
        self._specs: SharedCache[tuple[object, ...], SourceSpec] = SharedCache(_KEPT_SPECS)
        self._sources: SharedCache[tuple[SourceSpec, str | None], SharedSource] = SharedCache(most_open)
        self._twin_groups: SharedCache[str, list[TwinGroup]] = SharedCache(_KEPT_TWIN_GROUPS, len)
        self._decoders = Semaphore(os.cpu_count() or 1)
        self._large = Lock()

    def picture(self, run: RunDirectory, sample_id: int) -> Picture:
        """The picture of a query or of a labeled neighbour of one.

        Raises:
            ProblemError: `unknown-sample`: no round shows it; `outside-roots`; `unreadable-image`;
                `unreachable`: the store does not answer.
        """
        with _told(f"sample {sample_id} of run {run.name}"):
            files, name = run.manifest_files("pool"), part_name(sample_id // PART_ROWS)
            part = files.filesystem.get_file_info(files.path(name))
            if part.type != fs.FileType.File:
                raise _unknown(run, sample_id)
            self._own.require(run, f"pool/manifest/{name}", stamp(part))
            # A run that was begun anew under the same name has a manifest of its own.
            key = _key("picture", self._places, run.uri, sample_id, stamp(part))
            return self._kept(key, lambda: self._make_picture(run, sample_id, stamp(part)))

    def twin(self, run: RunDirectory, round_index: int, sample_id: int) -> Picture:
        """The adversarial twin that a round made of one of its queries, as PNG.

        Raises:
            ProblemError: `unknown-round`; `not-there`: the round has no twin of it; `unreachable`.
        """
        with _told(f"the twin of sample {sample_id} of run {run.name}"):
            round_ = known_round(run, round_index)
            selector = fs.FileSelector(round_.files.path("adversarial"), allow_not_found=True)
            parts = round_.files.filesystem.get_file_info(selector)
            key = _key(
                "twins", run.uri, round_index, sorted((part.base_name, *stamp(part)) for part in parts)
            )
            return self._kept(f"{key}-{sample_id}", lambda: self._make_twin(run, round_, sample_id, key))

    def close(self) -> None:
        """Close the cache; what is in it stays for the next."""
        self._blobs.close()

    def _kept(self, key: str, make: Callable[[], tuple[bytes, str]]) -> Picture:
        return self._blobs.get(key) or self._once.get(key, lambda: self._made(key, make))

    def _made(self, key: str, make: Callable[[], tuple[bytes, str]]) -> Picture:
        # Another thread may have ended making it between the look and this call.
        found = self._blobs.get(key)
        if found is not None:
            return found
        data, media_type = make()
        blob = Blob(data, media_type, etag_of(data))
        self._blobs.put(key, blob)
        return blob

    def _make_picture(self, run: RunDirectory, sample_id: int, part: tuple[object, ...]) -> tuple[bytes, str]:
        round_ = self._shown.round_of(run, sample_id)
        if round_ is None:
            raise _unknown(run, sample_id)
        exported = self._exported.find(run, round_, sample_id, self._roots.plus(run.uri))
        if exported is not None:
            with suppress(UnreadableImage):  # damaged in the export: the pool has it still
                return self._for_browsers(exported)
        return self._for_browsers(self._read(run, sample_id, part))

    def _for_browsers(self, raw: Raw) -> tuple[bytes, str]:
        if isinstance(raw, UnreadableImage):
            raise raw
        # Decoded, a large image takes some hundred megabytes.
        turn: AbstractContextManager[Any] = self._large if _pixels(raw) > _LARGE else self._decoders
        with turn:
            return browser_image(raw)

    def _read(self, run: RunDirectory, sample_id: int, part: tuple[object, ...]) -> Raw:
        """The raw image from the pool; one that was not there when the run listed the pool is refused."""
        files, number = run.manifest_files("pool"), sample_id // PART_ROWS
        table = self._manifests.get(
            (run.uri, number, part), lambda: read_columns(files.filesystem, files.root, number, _COLUMNS)
        )
        try:
            uri, row, known = (table[name][sample_id % PART_ROWS].as_py() for name in _COLUMNS)
            raw = self._source(run).read(uri, row)
        except IndexError:
            return UnreadableImage("the manifest or the pool ends before it")
        if known is not None and not isinstance(raw, UnreadableImage) and not _is_same(raw, known):
            return UnreadableImage("it is another image than when the run listed the pool")
        return raw

    def _source(self, run: RunDirectory) -> SharedSource:
        """The run's pool; runs on the same images share it."""
        config = run.files.filesystem.get_file_info(run.files.path("config.yaml"))
        spec = self._specs.get((run.uri, *stamp(config)), lambda: source_spec(run.config()))
        paths = [path for path in (spec.path, spec.test_path) if path is not None]
        own = not all(map(self._roots.hold, paths))
        roots = self._roots.plus(run.uri) if own else self._roots
        key = (spec, run.uri if own else None)
        return self._sources.get(key, lambda: SharedSource(GuardedSource(spec, roots)))

    def _make_twin(
        self, run: RunDirectory, round_: RoundDirectory, sample_id: int, key: str
    ) -> tuple[bytes, str]:
        groups = self._twin_groups.get(key, lambda: twin_groups(round_.files))
        for part in {group.part for group in groups}:
            require_own(run, f"rounds/{round_.index:04d}/adversarial/{part}")
        found = read_twins(round_.files, groups, [sample_id])
        if found is None:
            raise ProblemError(
                "not-there",
                f"round {round_.index} of run {run.name} has no adversarial twin of sample {sample_id}",
            )
        return browser_image(np.asarray(tensor_array(found["image"])[0]))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what cannot be read, or that a store does not answer, as problems."""
    try:
        yield
    except UnreadableImage as error:
        raise ProblemError(
            "unreadable-image", f"{what}: {error.reason}; restore it where the run has it from"
        ) from error
    except ConfigError as error:
        raise ProblemError("bad-config", f"{what}: {error}") from error
    except (PoolError, RunError, OSError, pa.ArrowException, KeyError) as error:
        cause = error.__cause__ if isinstance(error, PoolError) else error
        kind = "unreachable" if is_store_error(cause) else "unreadable-image"
        raise ProblemError(kind, f"{what}: {one_line(error, limit=500)}") from error


def known_round(run: RunDirectory, index: int) -> RoundDirectory:
    """A round that was begun.

    Raises:
        ProblemError: `unknown-round`.
    """
    round_ = run.round(index)
    if not round_.files.exists(""):
        raise ProblemError("unknown-round", f"run {run.name} has no round {index}")
    return round_


def etag_of(data: bytes) -> str:
    """An entity tag that any server gives the same bytes, in quotes, as HTTP's header has it."""
    return f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'


def _unknown(run: RunDirectory, sample_id: int) -> ProblemError:
    return ProblemError("unknown-sample", f"no round of run {run.name} has asked for sample {sample_id}")


def _key(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def _is_same(raw: bytes | np.ndarray, known: bytes) -> bool:
    # A packed pool keeps pixels as PNG, and their hash.
    return has_hash(raw, known) if isinstance(raw, bytes) else content_hash(raw) == known


def _pixels(raw: bytes | np.ndarray) -> int:
    """As the header has it; 0 where there is none, which is found soon enough, or few bytes."""
    if isinstance(raw, np.ndarray):
        return raw.size
    if len(raw) < _SMALL_BYTES:
        return 0
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # on damaged data Pillow raises almost anything
        return 0

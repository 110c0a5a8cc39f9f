"""What of a run is taken home: a round's model, and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pyarrow import NativeFile, fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.location import one_line
from dm2at_ray.run_report import make_report
from dm2at_ray.service.blobs import Blob, BlobCache
from dm2at_ray.service.guarded import GuardedSource
from dm2at_ray.service.once import Once
from dm2at_ray.service.pictures import etag_of, known_round
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.roots import Roots, require_own
from dm2at_ray.service.shown import stamp
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RoundDirectory, RunDirectory

CHUNK_BYTES = 1 << 20
REPORTS_BYTES = 256 << 20
WEIGHTS, SPEC = "model/model.safetensors", "model/model.json"


@dataclass(frozen=True)
class ModelFile:
    """A round's weights, opened.

    Attributes:
        name: For whoever saves it.
        size: In bytes.
        etag: In quotes, as HTTP's header has it.
        stream: The file, from its beginning.
    """

    name: str
    size: int
    etag: str
    stream: NativeFile

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a megabyte at a time; the file is closed behind them, or when nobody wants more."""
        with self.stream:
            while chunk := self.stream.read(CHUNK_BYTES):
                yield chunk


def open_model(run: RunDirectory, round_index: int) -> ModelFile:
    """The weights of a committed round, as a safetensors file.

    Raises:
        ProblemError: `unknown-round`; `not-there`: the round is not final, or has no model.
    """
    round_ = _with_model(run, round_index)
    files = round_.files
    stream = files.filesystem.open_input_stream(files.path(WEIGHTS), compression=None)
    info = files.filesystem.get_file_info(files.path(WEIGHTS))
    etag = hashlib.blake2b(json.dumps([run.uri, round_index, stamp(info)]).encode(), digest_size=16)
    return ModelFile(
        f"{run.name}-round-{round_index}.safetensors", info.size, f'"{etag.hexdigest()}"', stream
    )


def model_spec(run: RunDirectory, round_index: int) -> dict[str, Any]:
    """What the weights of a committed round are the state of, as `ModelSpec` has it, and its class names.

    Returns:
        `round`, `spec` (the fields of ModelSpec) and `class_names`, in the order of the logits.

    Raises:
        ProblemError: As `open_model` does.
    """
    spec = _with_model(run, round_index).files.read_json(SPEC)["spec"]
    return {"round": round_index, "spec": spec, "class_names": run.class_names()[: spec["num_classes"]]}


def _with_model(run: RunDirectory, round_index: int) -> RoundDirectory:
    round_ = known_round(run, round_index)
    if not round_.committed or not round_.has_model:
        raise ProblemError(
            "not-there",
            f"round {round_index} of run {run.name} is not final, and so has no model to give yet",
        )
    for name in (WEIGHTS, SPEC):
        require_own(run, f"rounds/{round_index:04d}/{name}")
    return round_


class Reports:
    """The reports of runs, each made once for the rounds that are there; any number of threads may ask.

    Args:
        data_roots: Paths or URIs below which a run's images may lie.
        cache: A folder on the local disk, for this service alone.
        cache_bytes: Of the reports kept there.
    """

    def __init__(self, data_roots: Sequence[str], cache: Path, *, cache_bytes: int = REPORTS_BYTES) -> None:
        self._roots = Roots(data_roots)
        self._places = sorted(data_roots)
        self._blobs = BlobCache(cache / "reports.sqlite", cache_bytes)
        self._once: Once[str, Blob] = Once()
        # The charts go by settings of the whole process.
        self._charts = Lock()

    def report(self, run: RunDirectory) -> Blob:
        """The report as one HTML page; without pictures where these may not be opened, or cannot be read.

        Raises:
            ProblemError: `not-there`: the run has not begun, or a file of a final round is gone.
        """
        if not run.files.exists("config.yaml"):
            raise ProblemError("not-there", f"run {run.name} has not begun, so there is no report of it yet")
        rounds = run.committed_rounds()
        facts: list[object] = [self._places, run.uri]
        for round_ in rounds:
            files = round_.files
            committed = files.filesystem.get_file_info(files.path("COMMITTED"))
            later = fs.FileSelector(files.path("evaluations"), allow_not_found=True)
            evaluated = {info.base_name: stamp(info) for info in files.filesystem.get_file_info(later)}
            facts.append([round_.index, stamp(committed), evaluated])
        key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=20).hexdigest()
        return self._blobs.get(key) or self._once.get(key, lambda: self._made(key, run))

    def close(self) -> None:
        """Close the cache; what is in it stays for the next."""
        self._blobs.close()

    def _made(self, key: str, run: RunDirectory) -> Blob:
        found = self._blobs.get(key)
        if found is not None:
            return found
        with self._charts:
            page = self._make(run).encode()
        blob = Blob(page, "text/html; charset=utf-8", etag_of(page))
        self._blobs.put(key, blob)
        return blob

    def _make(self, run: RunDirectory) -> str:
        try:
            return self._with_pictures(run)
        except FileNotFoundError as error:
            # The store does answer: to ask again would not help.
            raise ProblemError(
                "not-there", f"run {run.name}: a file of a final round is gone, restore it: {one_line(error)}"
            ) from error

    def _with_pictures(self, run: RunDirectory) -> str:
        """The page; without pictures where these may not be opened, or cannot be read."""
        try:
            source = GuardedSource(source_spec(run.config()), self._roots.plus(run.uri))
            return make_report(run, source)
        except (ProblemError, PoolError):
            return make_report(run, None)

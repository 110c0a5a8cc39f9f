"""The folder in which the runs are: their names in pages, and their directories, and nothing beside them."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.client.schemas import RUN_NAME
from dm2at_ray.service.intent import INTENT_FILE
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri

CONFIG_FILE = "config.yaml"
CHUNK_NAMES = 1000
"""So many names are looked at together."""
_READERS = 16

_NAME = re.compile(RUN_NAME.removesuffix("$") + r"\Z")

T = TypeVar("T")


class RunFolder:
    """The directories of runs: those with a config, or with what the service was asked for.

    What else lies there is passed over. Nothing here grows with the number of runs; of an object store, which
    cannot be listed in pieces, the names are held while one page of them is made.

    Args:
        uri: Local path or URI of the folder, which need not exist.
    """

    def __init__(self, uri: str) -> None:
        self._files = Files.at(absolute_uri(uri))
        local = self._files.local_root
        self.uri = str(local) if local is not None else uri.rstrip("/")
        self.is_local = local is not None
        # Stores answer in tens of milliseconds: questions wait for each other's answers, not in a row.
        self._readers = None if self.is_local else ThreadPoolExecutor(_READERS, "runs")

    def page(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Names of runs in their order.

        Args:
            after: The name after which to begin; None for the first.
            limit: At most so many.

        Returns:
            The names, and what to give as `after` for those that follow; None at the end.

        Raises:
            ProblemError: The storage does not answer.
        """
        assert limit >= 1
        found: list[str] = []
        with self.storage():
            for name in self._names(after or ""):
                if len(found) == limit:
                    return found, found[-1]
                found.append(name)
        return found, None

    def directory(self, name: str) -> RunDirectory:
        """The directory of a run.

        Raises:
            ProblemError: `unknown-run`: there is none of this name.
        """
        if _NAME.match(name) is not None:
            with self.storage():
                if self._is_run(name):
                    return self.place(name)
        raise ProblemError("unknown-run", f"run {name[:100]!r}: not in this service's folder of runs")

    def place(self, name: str) -> RunDirectory:
        """Where a run of this name is, or would be.

        Raises:
            ProblemError: `outside-roots`: a link of this name leads out of the root.
        """
        assert _NAME.match(name) is not None, name
        if not self._is_inside(name):
            raise ProblemError("outside-roots", f"run {name!r}: a link that leads out of the folder of runs")
        base, sign, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return RunDirectory(f"{base.rstrip('/')}/{name}{sign}{options}", self._files.below(name))

    @contextmanager
    def storage(self) -> Iterator[None]:
        """Turn what the storage cannot do into `unreachable`."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            words = " ".join(str(error).split())[:300]
            raise ProblemError("unreachable", f"the folder of runs {self.uri}: {words}") from error

    def of_each(self, ask: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        """Answers to a question about runs, in their order."""
        return map(ask, names) if self._readers is None else self._readers.map(ask, names)

    def _names(self, after: str) -> Iterator[str]:
        """Names of runs, in order, beginning after one."""
        while chunk := self._names_after(after):
            yield from self._of_runs(chunk)
            after = chunk[-1]

    def _names_after(self, after: str) -> list[str]:
        """The next names that a run may have: at most a chunk."""
        names = (name for name in self._files.each_name() if name > after and _NAME.match(name))
        return heapq.nsmallest(CHUNK_NAMES, names)

    def _of_runs(self, names: list[str]) -> Iterator[str]:
        step = 1 if self.is_local else _READERS
        for begin in range(0, len(names), step):
            some = names[begin : begin + step]
            are_runs = self.of_each(self._is_run, some)
            yield from (name for name, is_run in zip(some, are_runs, strict=True) if is_run)

    def _is_run(self, name: str) -> bool:
        if not self._is_inside(name):
            return False
        paths = [self._files.path(f"{name}/{file}") for file in (CONFIG_FILE, INTENT_FILE)]
        if self.is_local:
            # A folder that may not be read is nobody's run, and no reason to show none.
            return any(map(os.path.isfile, paths))
        return any(info.type == fs.FileType.File for info in self._files.filesystem.get_file_info(paths))

    def _is_inside(self, name: str) -> bool:
        path = self._files.path(name)
        if not self.is_local or not os.path.islink(path):
            return True
        real = os.path.realpath(path)
        # What is still a link leads in a circle.
        return os.path.dirname(real) == os.path.realpath(self._files.root) and not os.path.islink(real)

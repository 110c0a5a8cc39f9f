"""The runs below one root, as their directories and their jobs tell of them."""

from __future__ import annotations

import heapq
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.client.schemas import RUN_NAME, Round, RoundMetrics, RoundPage, RunState, RunStatus, RunSummary
from dm2at_ray.errors import RunError
from dm2at_ray.service.intent import INTENT_FILE, Intent, intent_of
from dm2at_ray.service.jobs import Jobs, JobWord
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.standing import Facts, Word, state_of
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LEASE_FILE, has_spoken
from dm2at_ray.uri import absolute_uri

CONFIG_FILE, STATUS_FILE = "config.yaml", "status.json"
CHUNK_NAMES = 1000
"""So many names of a root are looked at together."""
STORE_SECONDS = 1.5
"""For so long what an object store said is not asked again."""
MOST_KEPT = 256
_READERS = 16

_NAME = re.compile(RUN_NAME.removesuffix("$") + r"\Z")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    facts: Facts
    until: float


class Runs:
    """The runs of one root: each a directory in it with a config, or with what the service was asked for.

    What else lies there is passed over. Nothing here grows with the number of runs; of an object store, which
    cannot be listed in pieces, the names in the root are held while one page of them is made.

    Args:
        root: Local path or URI of the root, which need not exist.
        jobs: The jobs of the Ray cluster; None where none is known.
        now: The clock, in seconds since the epoch.
    """

    def __init__(self, root: str, jobs: Jobs | None = None, now: Any = time.time) -> None:
        self.jobs = jobs
        self._now = now
        self._files = Files.at(absolute_uri(root))
        local = self._files.local_root
        self.root = str(local) if local is not None else root.rstrip("/")
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._readers = ThreadPoolExecutor(_READERS, "runs") if local is None else None

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
        with storage(self.root):
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
            with storage(self.root):
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
        base, sign, options = self.root.partition("?") if "://" in self.root else (self.root, "", "")
        return RunDirectory(f"{base.rstrip('/')}/{name}{sign}{options}", self._files.below(name))

    def facts(self, name: str, *, fresh: bool = False) -> Facts:
        """What the files of a run say.

        Args:
            name: The run's.
            fresh: Whether they are to be read now also where an object store has just been asked.

        Raises:
            ProblemError: The storage does not answer.
        """
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(name)
        if not fresh and kept is not None and now < kept.until:
            return kept.facts
        with storage(self.root):
            facts = self._read_facts(self.place(name))
        if self._readers is not None:
            with self._lock:
                self._kept[name] = _Kept(facts, now + STORE_SECONDS)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        return facts

    def intent(self, name: str) -> Intent | None:
        """What is wanted of a run; None where it was started otherwise."""
        return self.facts(name).intent

    def summary(self, name: str) -> RunSummary:
        """A run among others.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        directory = self.directory(name)
        facts = self.facts(name)
        return RunSummary(**self._summary(directory, facts, self._state(facts)[0]))

    def summaries(self, names: Iterable[str]) -> list[RunSummary]:
        """Several runs; one that has gone meanwhile is left out."""

        def summary(name: str) -> RunSummary | None:
            try:
                return self.summary(name)
            except ProblemError as problem:
                if problem.kind != "unknown-run":
                    raise
                return None

        found = self._readers.map(summary, names) if self._readers is not None else map(summary, names)
        return [each for each in found if each is not None]

    def status(self, name: str, awaiting: Round | None) -> RunStatus:
        """Where a run is.

        Args:
            name: The run's.
            awaiting: The round that awaits labels, as its desk says; None where none does.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        directory = self.directory(name)
        facts = self.facts(name)
        state, reason = self._state(facts)
        if state != "awaiting_labels":
            awaiting = None
        elif awaiting is not None:
            reason = awaiting_words(awaiting)
        intent, word = facts.intent, facts.word
        works = state == "running" and facts.is_heard
        with storage(self.root):
            committed, classes = _rounds_committed(directory), _class_names(directory)
        return RunStatus(
            **self._summary(directory, facts, state),
            stage=word.stage if works else "",
            done=word.done if works else 0,
            total=word.total if works else 0,
            unit=word.unit,
            unlabeled=word.unlabeled,
            rounds_committed=committed,
            advance=intent is not None and intent.advance,
            reason=reason,
            job=intent.job if intent is not None else None,
            driver_lives=facts.driver_lives,
            awaiting=awaiting,
            classes=classes,
        )

    def rounds(self, name: str, after: int | None, limit: int) -> RoundPage:
        """Committed rounds in order.

        Args:
            name: The run's.
            after: The round after which to begin; None for the first.
            limit: At most so many.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        directory = self.directory(name)
        with storage(self.root):
            # Rounds are committed in their order.
            wanted = range(0 if after is None else after + 1, _rounds_committed(directory))
            found = [RoundMetrics(round=i, metrics=directory.round(i).metrics()) for i in wanted[:limit]]
        return RoundPage(rounds=found, next=found[-1].round if len(wanted) > len(found) else None)

    def config_yaml(self, name: str) -> str:
        """The config of a run, every field with its value.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        directory = self.directory(name)
        with storage(self.root):
            try:
                return directory.files.read_bytes(CONFIG_FILE).decode()
            except FileNotFoundError:
                intent = self.intent(name)
        if intent is None:
            raise ProblemError("not-there", f"run {name!r}: has no config")
        return intent.config

    def _summary(self, directory: RunDirectory, facts: Facts, state: RunState) -> dict[str, Any]:
        return {
            "name": directory.name,
            "state": state,
            "round": facts.word.round,
            "labeled": facts.word.labeled,
            "time": self._time(directory, facts),
        }

    def _time(self, directory: RunDirectory, facts: Facts) -> datetime:
        said = [facts.word.time, facts.intent.time if facts.intent is not None else None]
        times = [each for each in said if each is not None]
        if times:
            return datetime.fromtimestamp(max(times), timezone.utc)
        with storage(self.root):
            info = directory.files.filesystem.get_file_info(directory.files.path(CONFIG_FILE))
        return datetime.fromtimestamp((info.mtime_ns or 0) / 1e9, timezone.utc)

    def _state(self, facts: Facts) -> tuple[RunState, str]:
        return state_of(facts, self.job_word)

    def job_word(self, job: str) -> JobWord:
        """What the cluster says of a job, now or a moment ago."""
        return self.jobs.word(job) if self.jobs is not None else JobWord("SILENT")

    def _read_facts(self, directory: RunDirectory) -> Facts:
        intent = intent_of(_read_json(directory.files, INTENT_FILE), f"{directory.uri}/{INTENT_FILE}")
        status, lease = (_read_json(directory.files, name) for name in (STATUS_FILE, LEASE_FILE))
        lease = lease if _is_lease(lease) else {}
        return Facts(
            intent=intent,
            word=Word.of(status if isinstance(status, dict) else {}),
            driver_lives=has_spoken(lease, self._now()),
            driver_time=lease.get("time", 0.0),
        )

    def _names(self, after: str) -> Iterator[str]:
        """Names of runs, in order, beginning after one."""
        while chunk := self._names_after(after):
            yield from self._of_runs(chunk)
            after = chunk[-1]

    def _names_after(self, after: str) -> list[str]:
        """The next names that a run may have of what lies in the root: at most a chunk."""
        if self._files.local_root is None:
            names = (name for name in self._files.names() if name > after and _NAME.match(name))
            return sorted(names)[:CHUNK_NAMES]
        try:
            with os.scandir(self._files.root) as entries:
                names = (e.name for e in entries if e.name > after and _NAME.match(e.name))
                return heapq.nsmallest(CHUNK_NAMES, names)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _of_runs(self, names: list[str]) -> Iterator[str]:
        if self._readers is None:
            yield from (name for name in names if self._is_run(name))
            return
        for begin in range(0, len(names), _READERS):
            some = names[begin : begin + _READERS]
            yield from (
                name
                for name, is_run in zip(some, self._readers.map(self._is_run, some), strict=True)
                if is_run
            )

    def _is_run(self, name: str) -> bool:
        if not self._is_inside(name):
            return False
        paths = [self._files.path(f"{name}/{file}") for file in (CONFIG_FILE, INTENT_FILE)]
        if self._files.local_root is not None:
            # A folder that may not be read is nobody's run, and no reason to show none.
            return any(map(os.path.isfile, paths))
        return any(info.type == fs.FileType.File for info in self._files.filesystem.get_file_info(paths))

    def _is_inside(self, name: str) -> bool:
        path = self._files.path(name)
        if self._files.local_root is None or not os.path.islink(path):
            return True
        real = os.path.realpath(path)
        # What is still a link leads in a circle.
        return os.path.dirname(real) == os.path.realpath(self._files.root) and not os.path.islink(real)


def awaiting_words(round_: Round) -> str:
    """What a round waits for, for a person."""
    of = f"{round_.asked:,} queries"
    if round_.needed != round_.asked:
        of = f"{round_.needed:,} of {of}"
    return f"labels of {of} of round {round_.round}, {round_.answered:,} are there"


@contextmanager
def storage(root: str) -> Iterator[None]:
    """Turn what a storage cannot do into `unreachable`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        words = " ".join(str(error).split())[:300]
        raise ProblemError("unreachable", f"the folder of runs {root}: {words}") from error


def _read_json(files: Files, name: str) -> Any:
    """What a JSON file says; None where there is none, or something else of that name."""
    try:
        return files.read_json(name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None
    except ValueError:
        logger.warning("%s: not JSON", files.path(name))
        return None
    except OSError:
        if files.local_root is not None and not Path(files.path(name)).is_file():
            return None
        raise


def _is_lease(value: Any) -> bool:
    kinds = {"host": (str,), "boot": (str,), "pid": (int,), "time": (int, float)}
    return isinstance(value, dict) and all(isinstance(value.get(key), kinds[key]) for key in kinds)


def _rounds_committed(directory: RunDirectory) -> int:
    # Rounds are committed one after the other: all but the last are.
    rounds = directory.rounds()
    return sum((len(rounds) - 1, rounds[-1].committed)) if rounds else 0


def _class_names(directory: RunDirectory) -> list[str]:
    try:
        names = directory.class_names()
    except (ValueError, KeyError, TypeError, RunError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

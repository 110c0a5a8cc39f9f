"""The runs below one root, as their directories and their jobs tell of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from dm2at_ray.client.schemas import Round, RoundMetrics, RoundPage, RunState, RunStatus, RunSummary
from dm2at_ray.errors import RunError
from dm2at_ray.service.facts import read_facts
from dm2at_ray.service.folder import CONFIG_FILE, RunFolder
from dm2at_ray.service.intent import Intent
from dm2at_ray.service.jobs import Jobs, JobWord
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.standing import Facts, state_of
from dm2at_ray.store import RunDirectory

STORE_SECONDS = 1.5
"""For so long what an object store said is not asked again."""
MOST_KEPT = 256


@dataclass(frozen=True)
class _Kept:
    facts: Facts
    until: float


class Runs:
    """The runs of one folder, and where each stands.

    Args:
        root: Local path or URI of the folder, which need not exist.
        jobs: The jobs of the Ray cluster; None where none is known.
        now: The clock, in seconds since the epoch.
    """

    def __init__(self, root: str, jobs: Jobs | None = None, now: Callable[[], float] = time.time) -> None:
        self.jobs = jobs
        self._now = now
        self.folder = RunFolder(root)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def page(self, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Names of runs in their order; see `RunFolder.page`."""
        return self.folder.page(after, limit)

    def directory(self, name: str) -> RunDirectory:
        """The directory of a run.

        Raises:
            ProblemError: `unknown-run`: there is none of this name.
        """
        return self.folder.directory(name)

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
        with self.folder.storage():
            facts = read_facts(self.folder.place(name), self._now())
        if not self.folder.is_local:
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

        return [each for each in self.folder.of_each(summary, names) if each is not None]

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
        with self.folder.storage():
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
        with self.folder.storage():
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
        with self.folder.storage():
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
        with self.folder.storage():
            info = directory.files.filesystem.get_file_info(directory.files.path(CONFIG_FILE))
        return datetime.fromtimestamp((info.mtime_ns or 0) / 1e9, timezone.utc)

    def _state(self, facts: Facts) -> tuple[RunState, str]:
        return state_of(facts, self.job_word)

    def job_word(self, job: str) -> JobWord:
        """What the cluster says of a job, now or a moment ago."""
        return self.jobs.word(job) if self.jobs is not None else JobWord("SILENT")


def awaiting_words(round_: Round) -> str:
    """What a round waits for, for a person."""
    of = f"{round_.asked:,} queries"
    if round_.needed != round_.asked:
        of = f"{round_.needed:,} of {of}"
    return f"labels of {of} of round {round_.round}, {round_.answered:,} are there"


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

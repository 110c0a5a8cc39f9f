"""Starting, pausing and resuming runs: what is wanted is written down first, then brought about."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import yaml
from pyarrow import fs

from dm2at_ray.client.schemas import Round, RunRequest
from dm2at_ray.config import Config, differing_fields
from dm2at_ray.errors import UserError
from dm2at_ray.service.checks import ConfigChecks
from dm2at_ray.service.intent import Intent, Wanted, write_intent
from dm2at_ray.service.jobs import Jobs
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.reconciler import Reconciler
from dm2at_ray.service.runs import Runs, storage
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.standing import Facts, has_enough, is_due, state_of
from dm2at_ray.store import RunDirectory
from dm2at_ray.submission.job import Submission

LABELS_SECONDS = 0.2
"""Labels that come in such a time are looked at together."""
AGAIN_SECONDS = 2.0
"""After so long a run is looked at again that is about to change."""
SILENT_SECONDS = 10.0
"""After so long a cluster is tried again that did not do what it was told."""
PAGE_NAMES = 200

logger = logging.getLogger(__name__)


class AwaitingDesk(Protocol):
    """As much of a desk as is needed here."""

    def awaiting(self) -> Round | None:
        """The round that awaits labels."""


class OpenDesks(Protocol):
    """The desks of runs."""

    def at(self, run: RunDirectory) -> AbstractContextManager[AwaitingDesk]:
        """A run's desk, kept open meanwhile."""


class Control:
    """Has runs play, rest and end on the Ray cluster; safe to use from any thread.

    A thread finishes what this server or another one has begun and not finished, from `start_sweeping` on.

    Args:
        runs: The runs, which know the cluster's jobs.
        desks: Where their labels are looked up.
        settings: Of the service.
        now: The clock, in seconds since the epoch.
    """

    def __init__(
        self, runs: Runs, desks: OpenDesks, settings: ServiceSettings, now: Callable[[], float] = time.time
    ) -> None:
        assert (runs.jobs is None) == (settings.address is None), "Runs needs the Jobs of the address"
        self._runs = runs
        self._desks = desks
        self._python = settings.python
        self._checks = ConfigChecks(settings.data_roots, settings.models)
        self._now = now
        self._guard = threading.Lock()
        self._locks: weakref.WeakValueDictionary[str, _RunLock] = weakref.WeakValueDictionary()
        self._reconciler = Reconciler(self.carry_on, self._names, settings.sweep_seconds)

    def start_sweeping(self) -> None:
        """Look over all runs now, and from time to time."""
        if self._runs.jobs is not None:
            self._reconciler.start()

    def close(self) -> None:
        """End the sweeps; jobs go on."""
        self._reconciler.close()

    def start(self, request: RunRequest, who: str) -> bool:
        """Start a run; whether it is new.

        Asked again with the same config, it changes nothing but what a run may go on under: whether it
        advances by itself, and where its work runs.

        Args:
            request: The run.
            who: Who asks for it.

        Raises:
            ProblemError: `no-cluster`, `bad-config`, `outside-roots`, or `other-config`.
        """
        self._cluster()
        config = self._checks.read(request.config, request.name)
        with self._alone(request.name):
            directory = self._runs.place(request.name)
            facts = self._fresh(request.name)
            before = self._config_there(directory, facts)
            if before is None and _is_taken(directory):
                raise ProblemError(
                    "other-config",
                    f"run {request.name!r}: something that is no run has this name; take another",
                )
            if before is not None:
                # That of a run that was started otherwise need not be that of its folder.
                config = config.model_copy(update={"name": before.name})
                _check_same(request.name, before, config)
            intent = facts.intent
            if intent is None:
                intent = Intent(
                    "running",
                    request.advance,
                    config.to_yaml(),
                    who,
                    self._now(),
                    due=not facts.driver_lives and facts.word.phase != "awaiting_labels",
                )
                self._write(directory, intent)
            elif (intent.advance, intent.config) != (request.advance, config.to_yaml()):
                intent = replace(intent, advance=request.advance, config=config.to_yaml(), by=who)
                self._write(directory, intent)
            self._bring_about(request.name)
        return before is None

    def pause(self, name: str, who: str) -> None:
        """End a run's job, for now: labels are taken, and nothing starts by itself until it is resumed.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`, or `unreachable`: it is ended once that answers.
        """
        self._rest(name, "paused", who)

    def stop(self, name: str, who: str) -> None:
        """End a run's job, and hand out none of its queries any more, until it is resumed.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`, or `unreachable`: it is ended once that answers.
        """
        self._rest(name, "stopped", who)

    def resume(self, name: str, who: str) -> None:
        """Have a run go on that was paused or stopped, failed or lost its driver; else nothing happens.

        A round with labels enough goes on too, also where the run does not advance by itself.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`: it is done; `no-cluster`, `bad-config`, or
                `outside-roots`: its config names what this service may not open.
        """
        self._cluster()
        with self._alone(name):
            directory = self._runs.directory(name)
            facts = self._fresh(name)
            if facts.word.phase == "done":
                raise ProblemError("wrong-state", f"run {name!r} is done: {facts.word.reason}")
            config = self._config_there(directory, facts)
            assert config is not None
            self._checks.check(config)
            intent = facts.intent or Intent("paused", True, config.to_yaml(), who, self._now())
            if self._is_to_go_on(name, facts, intent):
                intent = replace(intent, due=True)
            if intent != facts.intent or intent.wanted != "running":
                self._write(directory, replace(intent, wanted="running", by=who, time=self._now()))
            self._bring_about(name)

    def labels_changed(self, name: str) -> None:
        """Say that labels of a run have come: its next step starts if they suffice; returns at once."""
        self._reconciler.soon(name, LABELS_SECONDS)

    def carry_on(self, name: str) -> float | None:
        """Bring a run into line with what is wanted of it.

        Returns:
            After how many seconds it is worth looking again; None where nothing is about to change.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        with self._alone(name):
            self._runs.directory(name)
            return self._bring_about(name)

    def _rest(self, name: str, wanted: Wanted, who: str) -> None:
        with self._alone(name):
            directory = self._runs.directory(name)
            facts = self._fresh(name)
            if facts.word.phase == "done":
                raise ProblemError("wrong-state", f"run {name!r} is done: {facts.word.reason}")
            intent = facts.intent
            if intent is None:
                config = self._config_there(directory, facts)
                assert config is not None
                job = self._foreign_job(directory)
                if job is None and facts.driver_lives:
                    raise ProblemError(
                        "wrong-state", f"run {name!r}: its driver was started otherwise; end it where it was"
                    )
                intent = Intent(wanted, False, config.to_yaml(), who, self._now(), job=job)
            elif wanted == "paused" and intent.wanted == "stopped":
                raise ProblemError(
                    "wrong-state", f"run {name!r} is stopped; resume it before it can be paused"
                )
            self._write(
                directory, replace(intent, wanted=wanted, due=False, by=who, time=self._now(), trouble="")
            )
            if intent.job is not None and not facts.has_last_word:
                self._end_job(name, intent.job)

    def _bring_about(self, name: str) -> float | None:
        """What `carry_on` does, under the run's lock."""
        facts = self._fresh(name)
        intent = facts.intent
        if intent is None or self._runs.jobs is None or facts.word.phase == "done":
            return None
        if intent.wanted != "running" and facts.has_last_word and intent.ending == intent.job:
            return None
        job = self._runs.job_word(intent.job) if intent.job is not None else None
        is_in_the_way = intent.due or intent.wanted != "running"
        if intent.job is not None and job is not None and job.lives and is_in_the_way:
            self._end_job(name, intent.job)
            return AGAIN_SECONDS
        awaited: list[Round | None] = []

        def round_of() -> Round | None:
            if not awaited:
                awaited.append(self._round_of(name))
            return awaited[0]

        if is_due(facts, job, round_of):
            return None if self._submit(name, facts, round_of) else SILENT_SECONDS
        if job is not None and job.state == "SILENT" and is_in_the_way:
            return SILENT_SECONDS
        is_about_to_end = job is not None and job.lives and facts.word.stage in ("", "export")
        if is_about_to_end and intent.advance and has_enough(round_of()):
            # The driver may have looked just before the last label came.
            return AGAIN_SECONDS
        return None

    def _submit(self, name: str, facts: Facts, round_of: Callable[[], Round | None]) -> bool:
        """Have a job play the run; whether that could be done."""
        jobs, intent = self._cluster(), facts.intent
        assert intent is not None
        directory = self._runs.place(name)
        config = Config.from_mapping(_parsed(intent.config), name)
        round_ = round_of() if facts.word.phase == "awaiting_labels" else None
        tried = (round_.round, round_.answered) if round_ is not None else None
        try:
            self._checks.check(config)
            job = jobs.at_work(directory.uri)
            if job is None:
                job = jobs.submit(
                    Submission(
                        config,
                        jobs.address,
                        directory.uri,
                        submission_id=job_name(name, directory.uri),
                        python=self._python,
                    )
                )
        except UserError as error:
            logger.warning("run %s: its job could not be submitted: %s", name, error)
            if str(error) != intent.trouble:
                self._write(directory, replace(intent, due=True, trouble=str(error)))
            return False
        logger.info("run %s: job %s", name, job)
        # A word that the job has said meanwhile is its own.
        self._write(
            directory,
            replace(intent, job=job, due=False, ending=None, heard=facts.word.time, tried=tried, trouble=""),
        )
        return True

    def _end_job(self, name: str, job: str) -> None:
        """Have a job end, and look again whether it has: one that has not begun does not hear it."""
        jobs = self._cluster()
        self._reconciler.soon(name, AGAIN_SECONDS)
        jobs.stop(job)
        facts = self._fresh(name)
        if facts.intent is not None and (facts.intent.job, facts.intent.ending) == (job, None):
            self._write(self._runs.place(name), replace(facts.intent, ending=job))

    def _is_to_go_on(self, name: str, facts: Facts, intent: Intent) -> bool:
        """Whether a run that somebody resumes needs a job."""
        if facts.driver_lives and intent.job is None:
            return False
        was_told = facts.has_last_word or intent.ending == intent.job
        if intent.job is not None and not was_told and self._runs.job_word(intent.job).lives:
            return False
        if facts.word.phase == "awaiting_labels":
            return has_enough(self._round_of(name))
        if intent.wanted != "running":
            return True
        return state_of(facts, self._runs.job_word)[0] in ("failed", "interrupted")

    def _round_of(self, name: str) -> Round | None:
        with self._desks.at(self._runs.place(name)) as desk:
            return desk.awaiting()

    def _foreign_job(self, directory: RunDirectory) -> str | None:
        """The job of a run that was started otherwise."""
        return self._runs.jobs.at_work(directory.uri) if self._runs.jobs is not None else None

    def _config_there(self, directory: RunDirectory, facts: Facts) -> Config | None:
        """The config that a run was begun with; None where there is no run."""
        try:
            if facts.intent is not None:
                return Config.from_mapping(_parsed(facts.intent.config), directory.name)
            return directory.config() if directory.files.exists("config.yaml") else None
        except UserError as error:
            raise ProblemError("bad-config", str(error)) from None

    def _cluster(self) -> Jobs:
        if self._runs.jobs is None:
            raise ProblemError(
                "no-cluster", "the service was started without --address; no run can be started"
            )
        return self._runs.jobs

    def _fresh(self, name: str) -> Facts:
        return self._runs.facts(name, fresh=True)

    def _write(self, directory: RunDirectory, intent: Intent) -> None:
        write_intent(directory.files, intent)
        self._fresh(directory.name)

    def _names(self) -> Iterator[str]:
        after: str | None = None
        while True:
            names, after = self._runs.page(after, PAGE_NAMES)
            yield from names
            if after is None:
                return

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else in this process changes the run meanwhile."""
        with self._guard:
            lock = self._locks.get(name)
            if lock is None:
                lock = self._locks[name] = _RunLock()
        with lock.lock, storage(self._runs.root):
            yield


class _RunLock:
    """A lock that a weak reference can be taken of: it goes with the last who holds or awaits it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def job_name(name: str, run_dir: str) -> str:
    """Id of a run's first job: the same whichever service submits it."""
    return f"dm2at-{name}-{hashlib.sha256(run_dir.encode()).hexdigest()[:12]}"


def _check_same(name: str, there: Config, wanted: Config) -> None:
    fields = differing_fields(there, wanted)
    if fields:
        raise ProblemError(
            "other-config",
            f"run {name!r}: there is one already, under another config ({', '.join(fields[:10])}); take "
            "another name, or set these back",
        )


def _is_taken(directory: RunDirectory) -> bool:
    """Whether something is there, be it a file."""
    info = directory.files.filesystem.get_file_info(directory.files.root)
    return info.type == fs.FileType.File or bool(directory.files.names())


def _parsed(text: str) -> dict[str, Any]:
    values = yaml.safe_load(text)
    return values if isinstance(values, dict) else {}

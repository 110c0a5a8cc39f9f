"""What is done so that a run is as it is wanted: its next job submitted, or its last one ended."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import yaml

from dm2at_ray.client.schemas import Round
from dm2at_ray.config import Config
from dm2at_ray.errors import UserError
from dm2at_ray.service.checks import ConfigChecks
from dm2at_ray.service.intent import Intent, write_intent
from dm2at_ray.service.jobs import Jobs
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.runs import Runs
from dm2at_ray.service.standing import Facts, has_enough, is_due, state_of
from dm2at_ray.store import RunDirectory
from dm2at_ray.submission.job import Submission

AGAIN_SECONDS = 2.0
"""After so long a run is looked at again that is about to change."""
SILENT_SECONDS = 10.0
"""After so long a cluster is tried again that did not do what it was told."""

logger = logging.getLogger(__name__)


class AwaitingDesk(Protocol):
    """As much of a desk as is needed here."""

    def awaiting(self) -> Round | None:
        """The round that awaits labels."""


class OpenDesks(Protocol):
    """The desks of runs."""

    def at(self, run: RunDirectory) -> AbstractContextManager[AwaitingDesk]:
        """A run's desk, kept open meanwhile."""


class Steps:
    """The single steps at a run, each taken while nobody else changes the run.

    Args:
        runs: The runs, which know the cluster's jobs.
        desks: Where their labels are looked up.
        checks: What configs may name.
        python: Python on the cluster's nodes.
        look_soon: Has a run looked at again after so many seconds.
    """

    def __init__(
        self,
        runs: Runs,
        desks: OpenDesks,
        checks: ConfigChecks,
        python: str,
        look_soon: Callable[[str, float], None],
    ) -> None:
        self._runs = runs
        self._desks = desks
        self._checks = checks
        self._python = python
        self._look_soon = look_soon

    def bring_about(self, name: str) -> float | None:
        """Bring a run into line with what is wanted of it.

        Returns:
            After how many seconds it is worth looking again; None where nothing is about to change.

        Raises:
            ProblemError: The storage or the cluster does not answer.
        """
        facts = self.fresh(name)
        intent = facts.intent
        if intent is None or self._runs.jobs is None or facts.word.phase == "done":
            return None
        if intent.wanted != "running" and facts.has_last_word and intent.ending == intent.job:
            return None
        job = self._runs.job_word(intent.job) if intent.job is not None else None
        is_in_the_way = intent.due or intent.wanted != "running"
        if intent.job is not None and job is not None and job.lives and is_in_the_way:
            self.end_job(name, intent.job)
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
        jobs, intent = self.cluster(), facts.intent
        assert intent is not None
        directory = self._runs.folder.place(name)
        config = Config.from_mapping(parsed(intent.config), name)
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
                self.write(directory, replace(intent, due=True, trouble=str(error)))
            return False
        logger.info("run %s: job %s", name, job)
        # A word that the job has said meanwhile is its own.
        self.write(
            directory,
            replace(intent, job=job, due=False, ending=None, heard=facts.word.time, tried=tried, trouble=""),
        )
        return True

    def end_job(self, name: str, job: str) -> None:
        """Have a job end, and look again whether it has: one that has not begun does not hear it."""
        jobs = self.cluster()
        self._look_soon(name, AGAIN_SECONDS)
        jobs.stop(job)
        facts = self.fresh(name)
        if facts.intent is not None and (facts.intent.job, facts.intent.ending) == (job, None):
            self.write(self._runs.folder.place(name), replace(facts.intent, ending=job))

    def is_to_go_on(self, name: str, facts: Facts, intent: Intent) -> bool:
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
        with self._desks.at(self._runs.folder.place(name)) as desk:
            return desk.awaiting()

    def cluster(self) -> Jobs:
        """The jobs of the cluster.

        Raises:
            ProblemError: `no-cluster`.
        """
        if self._runs.jobs is None:
            raise ProblemError(
                "no-cluster", "the service was started without --address; no run can be started"
            )
        return self._runs.jobs

    def fresh(self, name: str) -> Facts:
        """What the run's files say now."""
        return self._runs.facts(name, fresh=True)

    def write(self, directory: RunDirectory, intent: Intent) -> None:
        """Keep what is wanted of a run."""
        write_intent(directory.files, intent)
        self.fresh(directory.name)


def job_name(name: str, run_dir: str) -> str:
    """Id of a run's first job: the same whichever service submits it."""
    return f"dm2at-{name}-{hashlib.sha256(run_dir.encode()).hexdigest()[:12]}"


def parsed(text: str) -> dict[str, Any]:
    """The sections of a config that the service has kept."""
    values = yaml.safe_load(text)
    return values if isinstance(values, dict) else {}

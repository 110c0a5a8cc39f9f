"""The jobs of runs on a Ray cluster, asked for so that nobody waits long for a cluster that is silent."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from dm2at_ray.errors import RunError
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.submission.attempt import FORGOTTEN_SECONDS
from dm2at_ray.submission.client import JobClient, RefusedError, UnreachableError
from dm2at_ray.submission.job import Submission, job_at_work, start_attempt

LOOK_SECONDS = 3.0
"""How long the state of a job is waited for."""
ACT_SECONDS = 20.0
"""How long a job may take to be taken or told to end."""
KEPT_SECONDS = 2.0
SILENT_SECONDS = 5.0
"""For so long nobody asks again a cluster that did not answer."""
MOST_KEPT = 512

logger = logging.getLogger(__name__)

JobState = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED", "GONE", "SILENT"]


@dataclass(frozen=True)
class JobWord:
    """What is known of a job.

    Attributes:
        state: Ray's word for it; GONE: the cluster does not know it; SILENT: the cluster does not answer.
        message: What else is said, at length.
    """

    state: JobState
    message: str = ""

    @property
    def lives(self) -> bool:
        """Whether it plays its run, or is about to."""
        return self.state in ("PENDING", "RUNNING")

    @property
    def reason(self) -> str:
        """The last line of what is said: that of a traceback, or of a driver that refused to begin."""
        lines = self.message.strip().splitlines()
        return lines[-1].strip()[:500] if lines else ""


@dataclass(frozen=True)
class _Kept:
    word: JobWord
    until: float
    gone_since: float | None


class Jobs:
    """The jobs of one cluster; safe to use from any thread, and made without asking the cluster.

    Args:
        address: http(s) URL of the cluster's dashboard.
        connect: Makes a client of the job API that waits so many seconds for an answer.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        address: str,
        connect: Callable[[float], JobClient] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address.rstrip("/")
        self._connect = functools.lru_cache(maxsize=2)(connect or self._client)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._silence = JobWord("SILENT")
        self._silent_until = 0.0
        self._is_probed = False

    def word(self, job_id: str) -> JobWord:
        """What the cluster says of a job, now or a moment ago; never waits for more than a few seconds.

        A cluster that did not answer is asked by one at a time until it does.
        """
        with self._lock:
            now = self._clock()
            kept = self._kept.get(job_id)
            if kept is not None and now < kept.until:
                return kept.word
            was_silent = self._silent_until > 0
            if now < self._silent_until or (was_silent and self._is_probed):
                return self._silence
            self._is_probed = was_silent
        try:
            state, message = self._ask(job_id)
        finally:
            with self._lock:
                self._is_probed = False
        with self._lock:
            now = self._clock()
            if state == "SILENT":
                self._silence = JobWord("SILENT", message)
                self._silent_until = now + SILENT_SECONDS
                return self._silence
            self._silent_until = 0.0
            return self._keep(job_id, JobWord(state, message), now)

    def at_work(self, run_dir: str) -> str | None:
        """Id of the job that works on a run directory, whoever submitted it; None where none does.

        Raises:
            ProblemError: The cluster does not answer.
        """
        with self._acting() as client:
            return job_at_work(client.list_jobs(), run_dir)

    def submit(self, submission: Submission) -> str:
        """Start the next attempt at a run; returns its job's id.

        Raises:
            ProblemError: The cluster does not answer, or refuses it.
        """
        with self._acting() as client:
            job = start_attempt(client, submission, logger.info, patience=0.0)
        self.forget(job)
        return job

    def stop(self, job_id: str) -> None:
        """Have a job end, its driver as by SIGTERM; one that has not begun may have to be told again.

        Raises:
            ProblemError: The cluster does not answer.
        """
        try:
            with self._acting() as client:
                try:
                    client.stop_job(job_id)
                except RefusedError as error:
                    if error.code != 404:
                        raise
        finally:
            self.forget(job_id)

    def forget(self, job_id: str) -> None:
        """Ask anew for a job when it is asked for next."""
        with self._lock:
            self._kept.pop(job_id, None)

    def _keep(self, job_id: str, word: JobWord, now: float) -> JobWord:
        before = self._kept.pop(job_id, None)
        gone_since = None
        if word.state == "GONE":
            gone_since = before.gone_since if before and before.gone_since is not None else now
            if now - gone_since < FORGOTTEN_SECONDS:
                # A dashboard that has just begun does not know its jobs yet.
                word = JobWord("SILENT", word.message)
        self._kept[job_id] = _Kept(word, now + KEPT_SECONDS, gone_since)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return word

    def _ask(self, job_id: str) -> tuple[JobState, str]:
        try:
            details = self._connect(LOOK_SECONDS).get_job_info(job_id)
        except RefusedError as error:
            return ("GONE" if error.code == 404 else "SILENT"), str(error)
        except (UnreachableError, RunError) as error:
            return "SILENT", str(error)
        return details.status.value, details.message or ""

    @contextmanager
    def _acting(self) -> Iterator[JobClient]:
        try:
            yield self._connect(ACT_SECONDS)
        except (UnreachableError, RefusedError) as error:
            raise ProblemError("unreachable", f"the Ray cluster at {self.address}: {error}") from None
        except RunError as error:
            # It speaks of the option of that name, which is the service's own too.
            raise ProblemError("unreachable", str(error)) from None

    def _client(self, answer_seconds: float) -> JobClient:
        return JobClient(self.address, connect_seconds=LOOK_SECONDS, answer_seconds=answer_seconds)

"""One job: follow it to its final state, and say how it ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray.job_submission import JobDetails, JobStatus

from dm2at_ray.errors import RunError
from dm2at_ray.submission.client import JobClient, RefusedError, UnreachableError
from dm2at_ray.submission.logs import LogFollower

POLL_SECONDS = 2.0
FORGOTTEN_SECONDS = 30.0
"""A job that is unknown for so long stays unknown: its cluster has begun anew."""
LOG_SECONDS = 20.0
"""How long the rest of a log is waited for, once its job has ended."""

GOOD_PHASES = ("done", "awaiting_labels")
"""Phases that a driver may end in with exit code 0; it says which, and why, in a line of its own."""
LAST_WORDS = re.compile(rf"^({'|'.join(GOOD_PHASES)}): (.*\S)", re.MULTILINE)
KEPT_CHARACTERS = 100_000

FAILED, STOPPED, LOST = 1, 143, 1


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        job_id: Its submission id.
        exit_code: The driver's own where it succeeded or failed by itself; 143 where it was stopped, 1 where
            it failed without an exit code.
        phase: `done` or `awaiting_labels` as the driver said; `failed` or `stopped`; `submitted` where nobody
            waited; "" for a driver that succeeded and whose word could not be read.
        words: One line for a person.
    """

    job_id: str
    exit_code: int
    phase: str
    words: str


def follow_job(
    client: JobClient,
    job_id: str,
    emit: Callable[[str], None],
    say: Callable[[str], None],
    patience: float,
) -> Ending:
    """Pass on a job's log until the job is in a final state.

    Args:
        client: The job API.
        job_id: The job.
        emit: Takes its log.
        say: Takes one line about what happens here.
        patience: Seconds for which the job API may be gone.

    Raises:
        RunError: It was gone for longer, or no longer knows the job.
    """
    last = ""

    def keep(text: str) -> None:
        nonlocal last
        emit(text)
        last = (last + text)[-KEPT_CHARACTERS:]

    with LogFollower(client, job_id, keep) as log:
        details = wait_until_final(client, job_id, say, patience)
        if not log.finish(LOG_SECONDS):
            say(f"job {job_id}: the end of its log cannot be read any more")
    return ending(job_id, details, last)


def wait_until_final(
    client: JobClient, job_id: str, say: Callable[[str], None], patience: float
) -> JobDetails:
    """Ask for a job's state until it is final; also while the dashboard is being restarted."""
    answered = time.monotonic()
    is_gone = False
    while True:
        try:
            details = client.get_job_info(job_id)
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, RefusedError) and error.code < 500 and error.code != 404:
                raise RunError(f"job {job_id}: {error}") from None
            silent = time.monotonic() - answered
            is_unknown = isinstance(error, RefusedError) and error.code == 404
            if silent > (min(patience, FORGOTTEN_SECONDS) if is_unknown else patience):
                raise RunError(_lost(job_id, error, silent)) from None
            if not is_gone:
                say(f"job {job_id}: its state cannot be had ({error}); asking on")
            is_gone = True
        else:
            if is_gone:
                say(f"job {job_id}: {details.status.value.lower()}")
            answered, is_gone = time.monotonic(), False
            if details.status.is_terminal():
                return details
        time.sleep(POLL_SECONDS)


def _lost(job_id: str, error: Exception, seconds: float) -> str:
    if isinstance(error, RefusedError) and error.code == 404:
        return (
            f"job {job_id}: the cluster no longer knows it, as after a restart without fault tolerance; "
            "what is committed stays in the run directory: the same command goes on from there"
        )
    return (
        f"job {job_id}: no word of it for {seconds:.0f} s ({error}); "
        "the same command follows it again, or goes on from the run directory if it is gone"
    )


def ending(job_id: str, details: JobDetails, log: str) -> Ending:
    """How a job in a final state ended.

    Args:
        job_id: The job.
        details: What Ray says of it.
        log: The end of its log.
    """
    if details.status == JobStatus.STOPPED:
        words = f"job {job_id}: stopped; the same command goes on from what is committed"
        return Ending(job_id, STOPPED, "stopped", words)
    code = details.driver_exit_code
    if details.status == JobStatus.SUCCEEDED:
        said = LAST_WORDS.findall(log)
        phase, reason = said[-1] if said else ("", "succeeded; its log does not say how")
        return Ending(job_id, code or 0, phase, f"job {job_id}: {phase}{': ' if phase else ''}{reason}")
    if code:
        # Killed by a signal: as a shell says it.
        code = code if code > 0 else 128 - code
        return Ending(job_id, code, "failed", f"job {job_id}: failed with exit code {code}")
    lines = (details.message or "").strip().splitlines()
    reason = f": {lines[-1]}" if lines else ""
    words = f"job {job_id}: failed before its driver could end by itself{reason}"
    return Ending(job_id, FAILED, "failed", words)

"""`dm2at submit`: one job for one run, however often it is submitted."""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ray.job_submission import JobDetails

from dm2at_ray import __version__
from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, RunError
from dm2at_ray.submission.attempt import POLL_SECONDS, Ending, follow_job
from dm2at_ray.submission.client import JobClient, RefusedError, UnreachableError, check_address
from dm2at_ray.submission.package import CONFIG_NAME, pack

RUN_DIR_KEY = "dm2at_run_dir"
VERSION_KEY = "dm2at_version"
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Submission:
    """What to submit.

    Attributes:
        config: The run.
        address: http(s) URL of the cluster's dashboard.
        run_dir: Where the run is kept, as the cluster's nodes see it: a URI or an absolute path.
        working_dir: What is sent along: the user's own modules; None for no files of this machine but this
            package.
        excludes: Patterns of what is not.
        submission_id: The job's id; made from the run directory and the config where it is None.
        python: The nodes' Python.
    """

    config: Config
    address: str
    run_dir: str
    working_dir: Path | None = None
    excludes: tuple[str, ...] = ()
    submission_id: str | None = None
    python: str = "python"

    @property
    def base_id(self) -> str:
        """Id of the first attempt; the later ones have -2, -3, ... after it."""
        if self.submission_id is not None:
            return self.submission_id
        digest = hashlib.sha256(f"{self.run_dir}\0{self.config.to_yaml()}".encode()).hexdigest()
        return f"dm2at-{self.config.name}-{digest[:12]}"

    @property
    def entrypoint(self) -> str:
        """The driver's command: `dm2at` may not be installed there, the working directory has its code."""
        return f"{self.python} -m dm2at_ray run {CONFIG_NAME} --run-dir {shlex.quote(self.run_dir)}"


def submit(
    submission: Submission,
    *,
    wait: bool,
    emit: Callable[[str], None],
    say: Callable[[str], None],
    patience: float = 600.0,
) -> Ending:
    """Submit a run, or attach to the job that plays it already, and follow it to its end.

    Args:
        submission: What to submit.
        wait: Whether to follow it.
        emit: Takes the driver's log.
        say: Takes a line about what happens here.
        patience: Seconds for which the job API may be gone meanwhile.

    Returns:
        How the job ended; without `wait`, that it was submitted.

    Raises:
        UserError: Something to mend, in one line; before anything is uploaded where that can be known.
        KeyboardInterrupt: Stopped by the user; the job goes on.
    """
    check_submission(submission)
    client = JobClient(submission.address)
    job_id = None
    try:
        job_id = _living(client, submission)
        if job_id is not None:
            say(f"job {job_id}: runs already, attached to it")
        else:
            job_id = start_attempt(client, submission, say, patience)
        if not wait:
            return Ending(job_id, 0, "submitted", f"job {job_id}: not waited for")
        return follow_job(client, job_id, emit, say, patience)
    except (RefusedError, UnreachableError) as error:
        raise RunError(f"--address {submission.address}: {error}") from None
    except KeyboardInterrupt:
        if job_id is not None:
            say(
                f"job {job_id}: goes on without being watched; the same command follows it again, "
                f"`ray job stop --address {submission.address} {job_id}` stops it"
            )
        raise


def run_dir_for(run_dir: str | None, config: Config, address: str) -> str:
    """Where a submitted run is kept.

    Args:
        run_dir: What the user gave.
        config: Of the run.
        address: Of the cluster.

    Raises:
        RunError: A folder of this machine is not the same on a cluster elsewhere.
    """
    check_address(address)
    wanted = run_dir or f"runs/{config.name}"
    if "://" in wanted:
        if urlsplit(wanted).password:
            raise RunError(
                f"--run-dir {urlsplit(wanted).scheme}://…: has a secret in it, which every log would show; "
                "give the nodes their credentials by their environment"
            )
        return wanted
    path = Path(wanted).expanduser()
    if not path.is_absolute() and urlsplit(address).hostname not in LOOPBACK:
        raise RunError(
            f"--run-dir {wanted}: relative to a folder of this machine, and {address} is another one; give "
            "what all its nodes see, a URI such as s3://bucket/run or an absolute path on a shared disk"
        )
    return str(path.absolute())


def check_submission(submission: Submission) -> None:
    """Find what can be known to be wrong before the cluster is asked.

    Raises:
        UserError: It is, in one line.
    """
    if submission.submission_id is not None and not re.fullmatch(ID_PATTERN, submission.submission_id):
        raise RunError(
            f"--submission-id {submission.submission_id}: give letters and digits, and _ . - after the first"
        )
    config = submission.config
    paths = {
        "data.path": config.data.path,
        "data.test_path": config.data.test_path,
        "model.weights": config.model.weights,
    }
    for field, path in paths.items():
        if path and "://" not in path and not Path(path).expanduser().is_absolute():
            raise ConfigError(
                f"{field} = {path}: relative to a folder of this machine; give what all nodes of the cluster "
                "see, an absolute path" + (" or a URI such as s3://bucket/images" if "data" in field else "")
            )


def _attempts(jobs: list[JobDetails], base_id: str) -> dict[int, JobDetails]:
    """Jobs by the number of their attempt."""
    numbered = re.compile(rf"{re.escape(base_id)}(?:-([2-9]|[1-9]\d+))?")
    matches = ((numbered.fullmatch(job.submission_id or ""), job) for job in jobs)
    return {int(match[1] or 1): job for match, job in matches if match}


def job_at_work(jobs: list[JobDetails], run_dir: str) -> str | None:
    """Id of the job that works on a run directory, whoever submitted it; None where none does."""
    for job in jobs:
        if (job.metadata or {}).get(RUN_DIR_KEY) == run_dir and not job.status.is_terminal():
            return job.submission_id
    return None


def _living(client: JobClient, submission: Submission) -> str | None:
    """The job that plays the run now; None where there is none.

    Raises:
        RunError: Another job works on the run directory.
    """
    jobs = client.list_jobs()
    living = _last_living(_attempts(jobs, submission.base_id))
    if living is not None:
        return living
    other = job_at_work(jobs, submission.run_dir)
    if other is not None:
        raise RunError(
            f"--run-dir {submission.run_dir}: job {other} works on it, with another config or id; wait for "
            f"it, or end it by `ray job stop --address {submission.address} {other}`"
        )
    return None


def start_attempt(
    client: JobClient, submission: Submission, say: Callable[[str], None], patience: float
) -> str:
    """Start the next attempt at a run that no job plays.

    Args:
        client: The job API.
        submission: What to submit.
        say: Takes a line about what happens here.
        patience: Seconds for which the job API may be gone meanwhile.

    Returns:
        The job's id.

    Raises:
        UnreachableError: The job API was gone for longer.
        RefusedError: It would not.
        UserError: Something to mend.
    """
    # It loads PyTorch, which takes seconds that only a new job is worth.
    from dm2at_ray.preflight import check_alone

    check_alone(submission.config)
    with tempfile.TemporaryDirectory(prefix="dm2at-") as folder:
        package = pack(
            submission.working_dir,
            submission.config.to_yaml(),
            Path(folder) / "working_dir.zip",
            submission.excludes,
        )
        what = submission.working_dir.absolute() if submission.working_dir else "the config and its code"
        say(f"{what}: {package.files:,} files, {package.size / 1e6:.1f} MB for {submission.address}")
        deadline = time.monotonic() + patience
        job_id = None
        while True:
            try:
                # Known before it is tried: an answer that got lost must not start it a second time.
                if job_id is None:
                    attempts = _attempts(client.list_jobs(), submission.base_id)
                    living = _last_living(attempts)
                    if living is not None:
                        say(f"job {living}: was submitted meanwhile, attached to it")
                        return living
                    job_id = _next_id(attempts, submission.base_id)
                client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package.path)},
                    metadata={RUN_DIR_KEY: submission.run_dir, VERSION_KEY: __version__},
                )
                say(f"job {job_id}: submitted, run directory {submission.run_dir}")
                return job_id
            except RefusedError as error:
                if job_id is not None and "already exists" in error.text:
                    say(f"job {job_id}: was submitted this moment, attached to it")
                    return job_id
                raise
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _last_living(attempts: dict[int, JobDetails]) -> str | None:
    for _, job in sorted(attempts.items(), reverse=True):
        if not job.status.is_terminal():
            return job.submission_id
    return None


def _next_id(attempts: dict[int, JobDetails], base_id: str) -> str:
    number = max(attempts, default=0) + 1
    return base_id if number == 1 else f"{base_id}-{number}"

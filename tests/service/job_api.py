"""A job API without a cluster, which records what it is told."""

from __future__ import annotations

import threading
import time
import zipfile
from typing import Any

from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from dm2at_ray.service.jobs import Jobs
from dm2at_ray.submission.client import RefusedError, UnreachableError
from dm2at_ray.submission.package import CONFIG_NAME


class JobApi:
    """Stands in for JobClient.

    Attributes:
        jobs: Id -> what the cluster says of it.
        configs: Id -> the YAML that was sent with it.
        submitted, stopped: Ids, in the order of the calls.
        is_down: Whether nobody answers.
        slowness: Seconds that a submission takes.
        questions: How often the state of a job was asked for.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, JobDetails] = {}
        self.configs: dict[str, str] = {}
        self.submitted: list[str] = []
        self.stopped: list[str] = []
        self.is_down = False
        self.slowness = 0.0
        self.questions = 0
        self._lock = threading.Lock()

    def service(self, **arguments: Any) -> Jobs:
        """As the service sees it."""
        client: Any = self
        return Jobs("http://127.0.0.1:8265", lambda seconds: client, **arguments)

    def set(self, job: str, status: str, message: str | None = None, run_dir: str = "") -> None:
        """Say how a job is."""
        known = self.jobs.get(job)
        metadata = known.metadata if known is not None else {"dm2at_run_dir": run_dir}
        self.jobs[job] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=job,
            status=JobStatus(status),
            entrypoint=known.entrypoint if known is not None else "",
            message=message,
            metadata=metadata,
        )

    def list_jobs(self) -> list[JobDetails]:
        self._answer()
        return list(self.jobs.values())

    def get_job_info(self, job: str) -> JobDetails:
        self.questions += 1
        self._answer()
        if job not in self.jobs:
            raise RefusedError(404, f"Job {job} does not exist")
        return self.jobs[job]

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: Any, metadata: Any) -> str:
        self._answer()
        time.sleep(self.slowness)
        with zipfile.ZipFile(runtime_env["working_dir"]) as package:
            config = package.read(CONFIG_NAME).decode()
        with self._lock:
            if submission_id in self.jobs:
                raise RefusedError(500, f"Job with submission_id {submission_id} already exists.")
            self.submitted.append(submission_id)
            self.configs[submission_id] = config
            self.jobs[submission_id] = JobDetails(
                type=JobType.SUBMISSION,
                submission_id=submission_id,
                status=JobStatus.PENDING,
                entrypoint=entrypoint,
                metadata=metadata,
            )
        return submission_id

    def stop_job(self, job: str) -> bool:
        self._answer()
        self.stopped.append(job)
        if job not in self.jobs:
            raise RefusedError(404, f"Job {job} does not exist")
        return True

    def _answer(self) -> None:
        if self.is_down:
            raise UnreachableError("connection refused")

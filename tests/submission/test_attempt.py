"""How a job ended, from what Ray and the driver's log say."""

from __future__ import annotations

from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from dm2at_ray.errors import RunError
from dm2at_ray.submission import attempt
from dm2at_ray.submission.attempt import Ending, ending, wait_until_final
from dm2at_ray.submission.client import RefusedError, UnreachableError
from dm2at_ray.submission.logs import LogFollower

LOG = """round 0/1  score  done: nothing
done: all 1 query rounds are done
run directory: s3://bucket/run
report: s3://bucket/run/report.html
"""


def details(status: JobStatus, code: int | None = None, message: str | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, status=status, entrypoint="", driver_exit_code=code, message=message
    )


def test_ending__of_a_run_that_is_done() -> None:
    found = ending("job", details(JobStatus.SUCCEEDED, 0), LOG)
    assert found == Ending("job", 0, "done", "job job: done: all 1 query rounds are done")


def test_ending__tells_that_labels_are_awaited() -> None:
    log = LOG.replace("done: all 1 query rounds are done", "awaiting_labels: 20 queries of round 1")
    found = ending("job", details(JobStatus.SUCCEEDED, 0), log)
    assert found == Ending("job", 0, "awaiting_labels", "job job: awaiting_labels: 20 queries of round 1")


def test_ending__without_a_log_is_still_a_success() -> None:
    found = ending("job", details(JobStatus.SUCCEEDED, 0), "")
    assert (found.exit_code, found.phase) == (0, "")


@pytest.mark.parametrize(("driver", "expected"), [(2, 2), (1, 1), (137, 137), (-9, 137), (-15, 143)])
def test_ending__has_the_drivers_own_code(driver: int, expected: int) -> None:
    found = ending("job", details(JobStatus.FAILED, driver), LOG)
    assert (found.exit_code, found.phase) == (expected, "failed")


@pytest.mark.parametrize("code", [None, 0])
def test_ending__of_a_driver_that_never_ran_says_why(code: int | None) -> None:
    found = ending("job", details(JobStatus.FAILED, code, "Traceback:\n  ...\nRuntimeError: no disk\n"), "")
    assert found.exit_code == 1
    assert found.words.endswith("RuntimeError: no disk")


@pytest.mark.parametrize("code", [None, 0, 143])
def test_ending__of_a_stopped_job_is_no_success(code: int | None) -> None:
    found = ending("job", details(JobStatus.STOPPED, code), LOG)
    assert (found.exit_code, found.phase) == (143, "stopped")


class Answers:
    """A job API that gives these answers, one a call; the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def get_job_info(self, _: str) -> JobDetails:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    get_job_logs = get_job_info


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "POLL_SECONDS", 0.01)


def test_wait_until_final__outlives_a_restart_of_the_dashboard() -> None:
    said: list[str] = []
    client: Any = Answers(
        details(JobStatus.RUNNING),
        UnreachableError("Connection refused"),
        RefusedError(500, "Traceback\nTimeoutError: no agent"),
        RefusedError(404, "Job job does not exist"),
        details(JobStatus.RUNNING),
        details(JobStatus.SUCCEEDED, 0),
    )
    assert wait_until_final(client, "job", said.append, 5.0).status == JobStatus.SUCCEEDED
    assert said == ["job job: its state cannot be had (Connection refused); asking on", "job job: running"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (UnreachableError("Connection refused"), r"no word of it for \d+ s \(Connection refused\)"),
        (RefusedError(404, "Job job does not exist"), "the cluster no longer knows it"),
    ],
)
def test_wait_until_final__gives_up_in_one_line(answer: Exception, words: str) -> None:
    client: Any = Answers(details(JobStatus.RUNNING), answer)
    with pytest.raises(RunError, match=words):
        wait_until_final(client, "job", lambda _: None, 0.05)


class Streams:
    """A job API with the log `text`, whose streams break after so many characters each."""

    def __init__(self, text: str, *breaks: int) -> None:
        self.text = text
        self.breaks = list(breaks)

    async def tail_job_logs(self, _: str) -> Any:
        end = self.breaks.pop(0) if self.breaks else 0
        for at in range(0, end, 7):
            yield self.text[at : min(at + 7, end)]
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_logs(self, _: str) -> str:
        return self.text


@pytest.mark.parametrize("breaks", [(), (0,), (5, 3, 40), (1000, 20)])
def test_log__passes_everything_on_once(breaks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dm2at_ray.submission.logs.FIRST_PAUSE_SECONDS", 0.001)
    text = "".join(f"line {number} of the log\n" for number in range(60))
    passed_on: list[str] = []
    client: Any = Streams(text, *breaks)
    # What is asked for as a whole comes last: before, the streams alone are looked at.
    client.get_job_logs = lambda _: text if not client.breaks else ""
    with LogFollower(client, "job", passed_on.append) as log:
        while client.breaks:
            pass
        assert log.finish(1.0)
    assert "".join(passed_on) == text


def test_log__that_cannot_be_had_is_said() -> None:
    client: Any = Answers(UnreachableError("gone"))
    client.tail_job_logs = Streams("").tail_job_logs
    with LogFollower(client, "job", print) as log:
        assert not log.finish(0.0)

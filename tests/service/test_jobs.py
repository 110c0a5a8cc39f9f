"""A cluster that is asked little, and waited for less."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dm2at_ray.errors import RunError
from dm2at_ray.service.jobs import FORGOTTEN_SECONDS, KEPT_SECONDS, MOST_KEPT, SILENT_SECONDS, Jobs
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.submission.client import UnreachableError

from .job_api import JobApi

URL = "http://127.0.0.1:8265"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> JobApi:
    api = JobApi()
    api.set("job", "RUNNING")
    return api


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_word__is_kept_for_a_moment(api: JobApi, clock: Clock) -> None:
    jobs = api.service(clock=clock)
    assert [jobs.word("job").state for _ in range(5)] == ["RUNNING"] * 5
    assert api.questions == 1
    api.set("job", "SUCCEEDED")
    assert jobs.word("job").state == "RUNNING"
    clock.now += KEPT_SECONDS
    assert jobs.word("job").state == "SUCCEEDED"
    assert api.questions == 2


def test_word__a_silent_cluster_is_asked_again_after_a_while(api: JobApi, clock: Clock) -> None:
    jobs = api.service(clock=clock)
    api.is_down = True
    word = jobs.word("job")
    assert (word.state, word.reason) == ("SILENT", "connection refused")
    assert [jobs.word(f"job-{index}").state for index in range(50)] == ["SILENT"] * 50
    assert api.questions == 1, "a page of runs is not held up by each of them"
    clock.now += SILENT_SECONDS
    api.is_down = False
    assert jobs.word("job").state == "RUNNING"


def test_word__a_cluster_that_hangs_holds_up_one_at_a_time() -> None:
    hangs = threading.Event()

    class Hanging(JobApi):
        def get_job_info(self, job: str) -> Any:
            self.questions += 1
            if self.questions > 1:
                hangs.wait(5)
            raise UnreachableError("timed out")

    api = Hanging()
    clock = Clock()
    jobs = api.service(clock=clock)
    jobs.word("job")
    clock.now += SILENT_SECONDS
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(jobs.word, "job")
        while api.questions < 2:
            time.sleep(0.01)
        began = time.monotonic()
        assert [word.state for word in threads.map(jobs.word, ["a", "b", "c"])] == ["SILENT"] * 3
        assert time.monotonic() - began < 1
        hangs.set()
        assert first.result().state == "SILENT"
    assert api.questions == 2


def test_word__an_unknown_job_is_gone_when_it_stays_unknown(api: JobApi, clock: Clock) -> None:
    jobs = api.service(clock=clock)
    assert jobs.word("lost").state == "SILENT", "a dashboard that has just begun knows no job yet"
    clock.now += FORGOTTEN_SECONDS - 1
    assert jobs.word("lost").state == "SILENT"
    clock.now += KEPT_SECONDS
    assert jobs.word("lost").state == "GONE"
    api.set("lost", "RUNNING")
    clock.now += KEPT_SECONDS
    assert jobs.word("lost").state == "RUNNING"
    del api.jobs["lost"]
    clock.now += KEPT_SECONDS
    assert jobs.word("lost").state == "SILENT", "the time begins anew"
    assert jobs.word("job").state == "RUNNING"


def test_word__of_a_cluster_that_refuses_the_token(clock: Clock) -> None:
    def refuse(seconds: float) -> Any:
        raise RunError(f"--address {URL}: the token is refused")

    word = Jobs(URL, refuse, clock).word("job")
    assert (word.state, word.reason) == ("SILENT", f"--address {URL}: the token is refused")


def test_words__are_bounded(api: JobApi) -> None:
    jobs = api.service()
    for index in range(2 * MOST_KEPT):
        jobs.word(f"job-{index}")
    assert len(jobs._kept) == MOST_KEPT


def test_stop__of_a_job_that_nobody_knows_is_no_trouble(api: JobApi) -> None:
    api.service().stop("lost")
    assert api.stopped == ["lost"]


def test_acts__of_a_silent_cluster_are_a_problem(api: JobApi) -> None:
    api.is_down = True
    jobs = api.service()
    for call in (lambda: jobs.stop("job"), lambda: jobs.at_work("s3://bucket/run")):
        with pytest.raises(ProblemError) as refused:
            call()
        assert refused.value.kind == "unreachable"
        assert "connection refused" in str(refused.value)


def test_jobs__of_an_address_where_nobody_listens_are_made_at_once() -> None:
    jobs = Jobs("http://127.0.0.1:9/")
    assert jobs.address == "http://127.0.0.1:9"
    word = jobs.word("job")
    assert word.state == "SILENT"
    assert "nobody answers" in word.reason

"""Where a run stands, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from dm2at_ray.client.schemas import Round
from dm2at_ray.service.intent import Intent
from dm2at_ray.service.jobs import JobState, JobWord
from dm2at_ray.service.standing import Facts, Word, is_due, state_of

SAID, BEFORE = 2000.0, 1000.0
"""Times of status.json: a word of the last attempt, and one of the attempt before it."""


def facts(
    phase: str,
    *,
    wanted: Any = "running",
    job: str | None = "job",
    said: float | None = SAID,
    lives: bool = False,
    driver_time: float = 0.0,
    **fields: Any,
) -> Facts:
    heard = BEFORE if job is not None else None
    intent = Intent(wanted, True, "", "ann", 3000.0, job=job, heard=heard, **fields)
    word = Word(phase, time=said) if phase else Word()
    return Facts(intent, word, lives, driver_time)


def no_job(job: str) -> JobWord:
    raise AssertionError("asked")


def state(facts: Facts, job: JobState | None = None) -> str:
    return state_of(facts, (lambda _: JobWord(job)) if job is not None else no_job)[0]


@pytest.mark.parametrize(
    ("phase", "job", "lives", "expected"),
    [
        # Nothing was ever said.
        ("", "SILENT", False, "submitted"),
        ("", "PENDING", False, "pending"),
        ("", "RUNNING", False, "running"),
        ("", "FAILED", False, "failed"),
        ("", "STOPPED", False, "interrupted"),
        ("", "GONE", False, "interrupted"),
        # The attempt has said something, and is at work or not.
        ("training", "RUNNING", True, "running"),
        ("training", "RUNNING", False, "running"),
        ("training", "SILENT", True, "running"),
        ("training", "SILENT", False, "interrupted"),
        ("training", "FAILED", False, "interrupted"),
        ("training", "GONE", False, "interrupted"),
        ("training", "GONE", True, "running"),
        # It has said its last word: nobody need be asked.
        ("awaiting_labels", None, False, "awaiting_labels"),
        ("awaiting_labels", None, True, "awaiting_labels"),
        ("failed", None, False, "failed"),
        ("interrupted", None, False, "interrupted"),
        ("done", None, False, "done"),
    ],
)
def test_state__of_a_run_that_is_wanted(phase: str, job: JobState | None, lives: bool, expected: str) -> None:
    known = facts(phase, lives=lives) if phase else facts("", said=None, lives=lives)
    if not phase:
        assert known.intent is not None
        known = Facts(Intent("running", True, "", "ann", 0.0, job="job"), Word(), lives)
    assert state(known, job) == expected


@pytest.mark.parametrize(
    ("phase", "job", "expected"),
    [
        ("awaiting_labels", "PENDING", "pending"),
        ("awaiting_labels", "RUNNING", "running"),
        ("awaiting_labels", "SILENT", "submitted"),
        ("awaiting_labels", "FAILED", "failed"),
        ("awaiting_labels", "SUCCEEDED", "awaiting_labels"),
        ("failed", "RUNNING", "running"),
        ("failed", "STOPPED", "interrupted"),
    ],
)
def test_state__a_word_of_the_attempt_before_is_no_word_of_this_one(
    phase: str, job: JobState, expected: str
) -> None:
    assert state(facts(phase, said=BEFORE), job) == expected


@pytest.mark.parametrize("wanted", ["paused", "stopped"])
def test_state__is_what_is_wanted_where_somebody_ended_it(wanted: str) -> None:
    for phase in ("training", "interrupted", "awaiting_labels", "failed"):
        assert state(facts(phase, wanted=wanted, lives=True, driver_time=3010.0)) == wanted
    assert state(facts("done", wanted=wanted)) == "done"
    # A minute later a driver still works: then somebody started it by hand.
    assert state(facts("training", wanted=wanted, lives=True, driver_time=3061.0), "STOPPED") == "running"


def test_state__of_a_run_that_the_service_did_not_start() -> None:
    assert state(Facts(None, Word("training", time=SAID), driver_lives=True)) == "running"
    assert state(Facts(None, Word("training", time=SAID))) == "interrupted"
    assert state(Facts(None, Word("awaiting_labels", time=SAID))) == "awaiting_labels"
    assert state(Facts(None, Word("done", time=SAID))) == "done"
    assert state(Facts()) == "interrupted"


def test_state__of_a_run_whose_job_is_yet_to_be_submitted() -> None:
    known = facts("failed", due=True, trouble="nobody answers")
    assert state_of(known, no_job) == ("submitted", "nobody answers")


def round_(answered: int, *, is_open: bool = True, accepted: bool = False) -> Round:
    return Round(
        round=1, asked=40, answered=answered, skipped=0, leased=0, needed=40, accepted=accepted, open=is_open
    )


@pytest.mark.parametrize(
    ("known", "job", "awaited", "expected"),
    [
        (facts("", job=None, said=None, due=True), None, None, True),
        (facts("failed", due=True), "FAILED", None, True),
        (facts("failed", due=True), "RUNNING", None, False),
        (facts("failed", due=True), "SILENT", None, False),
        (facts("failed"), "FAILED", None, False),
        (facts("failed"), "GONE", None, False),
        (facts("training"), "GONE", None, True),
        (facts("training", lives=True), "GONE", None, False),
        (facts("interrupted"), "GONE", None, True),
        (facts("interrupted"), "STOPPED", None, False),
        (facts("training"), "FAILED", None, False),
        (facts("training", wanted="paused"), "GONE", None, False),
        (facts("done"), "GONE", None, False),
        (facts("awaiting_labels"), "SUCCEEDED", round_(39), False),
        (facts("awaiting_labels"), "SUCCEEDED", round_(40), True),
        (facts("awaiting_labels"), "SUCCEEDED", round_(3, accepted=True), True),
        (facts("awaiting_labels"), "SUCCEEDED", round_(40, is_open=False), False),
        (facts("awaiting_labels"), "SUCCEEDED", None, False),
        (facts("awaiting_labels"), "RUNNING", round_(40), False),
        (facts("awaiting_labels"), "GONE", round_(40), True),
        (facts("awaiting_labels"), "GONE", round_(39), False),
        (facts("awaiting_labels", job=None), None, round_(40), True),
        (facts("awaiting_labels", tried=(1, 40)), "SUCCEEDED", round_(40), False),
        (facts("awaiting_labels", tried=(0, 40)), "SUCCEEDED", round_(40), True),
        (facts("awaiting_labels", wanted="paused"), "SUCCEEDED", round_(40), False),
        # The attempt that was to take the labels said nothing.
        (facts("awaiting_labels", said=BEFORE), "FAILED", round_(40), False),
        (facts("awaiting_labels", said=BEFORE), "GONE", round_(40), True),
        (Facts(None, Word("awaiting_labels", time=SAID)), None, round_(40), False),
    ],
)
def test_is_due(known: Facts, job: JobState | None, awaited: Round | None, expected: bool) -> None:
    word = JobWord(job) if job is not None else None
    assert is_due(known, word, lambda: awaited) == expected

"""Where a run stands, by what its files and its job say; and whether its next job is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dm2at_ray.client.schemas import Round, RunState
from dm2at_ray.service.intent import Intent
from dm2at_ray.service.jobs import JobWord
from dm2at_ray.status import ENDED
from dm2at_ray.store.lease import LIFETIME_SECONDS

_LATEST = 2.0**33


@dataclass(frozen=True)
class Word:
    """What a driver said last: status.json, as far as it is as a driver writes it."""

    phase: str = ""
    round: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = "images"
    labeled: int = 0
    unlabeled: int = 0
    reason: str = ""
    time: float | None = None

    @classmethod
    def of(cls, status: dict[str, Any]) -> Word:
        """The word in a parsed status.json; an empty one where there is none."""

        def number(name: str) -> int:
            value = status.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0

        def text(name: str) -> str:
            value = status.get(name)
            return value if isinstance(value, str) else ""

        time = status.get("time")
        is_time = isinstance(time, (int, float)) and 0 <= time < _LATEST
        return cls(
            phase=text("phase"),
            round=number("round"),
            stage=text("stage"),
            done=number("done"),
            total=number("total"),
            unit=text("unit") or "images",
            labeled=number("labeled"),
            unlabeled=number("pool"),
            reason=text("reason"),
            time=time if is_time else None,
        )


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    Attributes:
        intent: What is wanted of it; None where it was started otherwise.
        word: Of its last driver.
        driver_lives: Whether a driver has renewed its lease in the last minute.
        driver_time: When a driver last did.
    """

    intent: Intent | None = None
    word: Word = field(default_factory=Word)
    driver_lives: bool = False
    driver_time: float = 0.0

    @property
    def has_last_word(self) -> bool:
        """Whether the last attempt at the run has said how it ended."""
        return self.word.phase in ENDED and self.is_heard

    @property
    def is_heard(self) -> bool:
        """Whether the last word is one of the last attempt, not of one before it."""
        if self.intent is None or self.intent.job is None:
            return self.word.time is not None
        return self.word.time != self.intent.heard


def state_of(facts: Facts, job_of: Callable[[str], JobWord]) -> tuple[RunState, str]:
    """State of a run, and why it is so where there is something to say.

    Args:
        facts: What the files say.
        job_of: What the cluster says of a job; it is asked only where the files leave it open.
    """
    intent, word = facts.intent, facts.word
    if word.phase == "done":
        return "done", word.reason
    if intent is not None and intent.wanted in ("paused", "stopped") and not _works_on(facts):
        return ("paused" if intent.wanted == "paused" else "stopped"), intent.trouble
    if intent is not None and intent.due:
        return "submitted", intent.trouble
    if facts.has_last_word:
        return _ended(word)
    job = job_of(intent.job) if intent is not None and intent.job is not None else None
    if job is not None and job.lives:
        return ("pending", "") if job.state == "PENDING" else ("running", "")
    if facts.driver_lives:
        return "running", ""
    if job is None or facts.is_heard:
        return "interrupted", _gone(job)
    if job.state == "SILENT":
        return "submitted", job.reason
    if job.state == "FAILED":
        return "failed", job.reason or "the job failed without a word"
    if job.state == "SUCCEEDED" and word.phase in ENDED:
        # It found nothing to do, and left the word of the attempt before it.
        return _ended(word)
    return "interrupted", _gone(job)


def is_due(facts: Facts, job: JobWord | None, round_of: Callable[[], Round | None]) -> bool:
    """Whether a run needs its next job now.

    A job that failed, or that somebody else ended, is not followed by another by itself: that is for a person
    to say. One that its cluster has lost is.

    Args:
        facts: What the files say.
        job: What the cluster says of the run's last job; None where it has none.
        round_of: The round that awaits labels; it is asked only where that matters.
    """
    intent, word = facts.intent, facts.word
    if intent is None or intent.wanted != "running" or word.phase == "done":
        return False
    if job is not None and (job.lives or job.state == "SILENT"):
        return False
    if intent.due:
        return True
    if word.phase == "awaiting_labels" and (facts.is_heard or (job is not None and job.state == "SUCCEEDED")):
        return intent.advance and _has_news(intent, round_of())
    if job is None or facts.driver_lives:
        return False
    return job.state == "GONE" and not (facts.is_heard and word.phase == "failed")


def has_enough(round_: Round | None) -> bool:
    """Whether a round has the labels that it awaits."""
    return round_ is not None and round_.open and (round_.accepted or round_.answered >= round_.needed)


def _has_news(intent: Intent, round_: Round | None) -> bool:
    """Whether a round has labels enough, and they are not those that an attempt has been given already."""
    return has_enough(round_) and round_ is not None and intent.tried != (round_.round, round_.answered)


def _works_on(facts: Facts) -> bool:
    """Whether a driver is at work long after it was told to end: somebody started it otherwise."""
    assert facts.intent is not None
    return facts.driver_lives and facts.driver_time > facts.intent.time + LIFETIME_SECONDS


def _ended(word: Word) -> tuple[RunState, str]:
    if word.phase == "awaiting_labels":
        return "awaiting_labels", word.reason
    if word.phase == "failed":
        return "failed", word.reason
    return "interrupted", word.reason


def _gone(job: JobWord | None) -> str:
    if job is None or job.state == "SILENT":
        return "no driver works on it; resume goes on"
    if job.state == "STOPPED":
        return "its job was stopped; resume goes on"
    if job.state == "GONE":
        return "the cluster no longer knows its job; resume goes on"
    return f"its job is over ({job.reason or job.state.lower()}); resume goes on"

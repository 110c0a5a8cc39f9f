"""What becomes of answers: held against the index, against each other, and against those just before them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from dm2at_ray.client.schemas import Answered, AnswerIn, Outcome
from dm2at_ray.labeling.checks import class_advice
from dm2at_ray.labeling.formats import CANNOT_TELL

WRITTEN: tuple[Outcome, ...] = ("new", "skipped", "correction")
REFUSED: tuple[Outcome, ...] = get_args(Outcome)[4:]
_MOST_ADVICE = 10


@dataclass(frozen=True)
class Verdict:
    """What becomes of an answer.

    Attributes:
        outcome: What, with words.
        label: The label that it says; None for "cannot tell".
        round: The round that it is taken for.
    """

    outcome: Answered
    label: str | None
    round: int

    @property
    def is_written(self) -> bool:
        """Whether it says something new."""
        return self.outcome.outcome in WRITTEN

    @property
    def is_refused(self) -> bool:
        """Whether it cannot be taken."""
        return self.outcome.outcome in REFUSED


class Judge:
    """Judges requests one after the other, as if each one's words were there for the next.

    Args:
        db: Of the index.
        classes: Names of the classes.
        pool_size: Tells how many samples the pool has.
    """

    def __init__(self, db: sqlite3.Connection, classes: Sequence[str], pool_size: Callable[[], int]) -> None:
        self._db = db
        self._classes = list(classes)
        self._pool_size = pool_size
        self._said: dict[int, str | None] = {}

    def judge(
        self, answers: Sequence[AnswerIn], add_classes: Sequence[str], keep_good: bool
    ) -> list[Verdict]:
        """What becomes of the answers of one request; where it is refused, the next do not see them."""
        classes = list(dict.fromkeys([*self._classes, *add_classes]))
        request = _Request(self._db, self._said, classes, self._pool_size, answers)
        verdicts = [request.verdict(answer) for answer in answers]
        if keep_good or not any(verdict.is_refused for verdict in verdicts):
            taken = {each.outcome.sample_id: each.label for each in verdicts if each.is_written}
            self._said |= taken
            new = [label for label in taken.values() if label is not None]
            self._classes = list(dict.fromkeys([*self._classes, *new]))
        return verdicts


class _Request:
    def __init__(
        self,
        db: sqlite3.Connection,
        said: dict[int, str | None],
        classes: list[str],
        pool_size: Callable[[], int],
        answers: Sequence[AnswerIn],
    ) -> None:
        self._db = db
        self._said = said
        self._classes = classes
        self._known = set(classes)
        self._pool_size = pool_size
        self._here: dict[int, set[str | None]] = {}
        for answer in answers:
            if answer.label is None or answer.label in self._known:
                self._here.setdefault(answer.sample_id, set()).add(answer.label)
        self._taken: set[int] = set()
        self._advised = 0

    def verdict(self, answer: AnswerIn) -> Verdict:
        rounds = [
            index
            for (index,) in self._db.execute(
                "SELECT round FROM queries WHERE sample_id = ? ORDER BY round DESC", (answer.sample_id,)
            )
        ]
        outcome, detail = self._outcome(answer, rounds)
        asked = answer.round if answer.round in rounds else max(rounds, default=0)
        return Verdict(
            Answered(sample_id=answer.sample_id, outcome=outcome, detail=detail), answer.label, asked or 0
        )

    def _outcome(self, answer: AnswerIn, rounds: list[int]) -> tuple[Outcome, str]:
        sample_id, label = answer.sample_id, answer.label
        if not rounds:
            size = self._pool_size()
            if sample_id < size:
                return "not_asked", "no round has asked for it"
            return (
                "unknown_sample",
                f"the pool has the ids 0 to {size - 1}" if size else "the pool is not listed yet",
            )
        if answer.round is not None and answer.round not in rounds:
            return "other_round", f"round {rounds[0]} has asked for it, not round {answer.round}"
        if label is not None and label not in self._known:
            return "unknown_class", self._advice(label)
        others = self._here[sample_id] - {label}
        if others:
            named = ", ".join(sorted(repr(other or CANNOT_TELL) for other in others))
            return "conflict", f"the same request says {named} of it too"
        if sample_id in self._taken:
            return "same", "said twice in the request"
        self._taken.add(sample_id)
        known = self._known_label(sample_id)
        if known is None:
            return ("skipped" if label is None else "new"), ""
        (before,) = known
        if before == label:
            return "same", ""
        return "correction", f"was {before or CANNOT_TELL!r}"

    def _known_label(self, sample_id: int) -> tuple[str | None] | None:
        if sample_id in self._said:
            return (self._said[sample_id],)
        return self._db.execute("SELECT label FROM counted WHERE sample_id = ?", (sample_id,)).fetchone()

    def _advice(self, label: str) -> str:
        # To look for similar names takes long where there are many.
        self._advised += 1
        if self._advised > _MOST_ADVICE:
            return f"{label!r} is no class of the run"
        return f"{class_advice(label, self._classes)}; add_classes makes {label!r} one"

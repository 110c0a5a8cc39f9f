"""What the index tells, as messages: rounds, queries, and what was said."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from dm2at_ray.client.schemas import (
    Disagreement,
    DisagreementPage,
    LabelsStatus,
    Neighbor,
    Query,
    QueryPage,
    Round,
    Said,
    SaidPage,
)
from dm2at_ray.oracles import needed_answers
from dm2at_ray.service.index import meta
from dm2at_ray.service.leases import LEASED
from dm2at_ray.service.problems import ProblemError

State = Literal["all", "open", "answered"]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SOURCES_SHOWN = 100
_WORDS_SHOWN = 100
_QUERY = (
    "SELECT q.sample_id, q.round, q.rank, q.score, q.predicted, q.neighbors, q.answered, q.twin, q.until, "
    "c.label FROM queries q {index} LEFT JOIN counted c ON c.sample_id = q.sample_id "
)
_WORD = (
    "SELECT w.id, w.sample_id, w.round, w.label, w.source, w.time, (w.file, w.place) = (c.file, c.place) "
    "FROM words w CROSS JOIN counted c ON c.sample_id = w.sample_id "
)
# The round that awaits labels of people; nobody asks them where the source itself is the oracle.
_OPEN = (
    "(SELECT max(round) FROM rounds WHERE committed = 0 AND labeled = 0 "
    "AND EXISTS (SELECT 1 FROM meta WHERE key = 'oracle' AND value = 'files'))"
)
_ROUND = (
    "SELECT round, asked, answered, skipped, accepted, "
    "(SELECT value FROM meta WHERE key = 'sufficient'), "
    f"({LEASED}), round IS {_OPEN} FROM rounds "
)


def known_classes(db: sqlite3.Connection) -> list[str]:
    """Names of the classes, with those that labels have added since a round was last begun."""
    names: list[str] = _class_names(db)
    said = db.execute("SELECT label FROM classes WHERE samples > 0 ORDER BY label")
    return list(dict.fromkeys([*names, *(label for (label,) in said)]))


def open_round(db: sqlite3.Connection) -> int | None:
    """The round that awaits labels of people; None where none does."""
    (index,) = db.execute(f"SELECT {_OPEN}").fetchone()
    return index


def awaiting(db: sqlite3.Connection, now: float) -> Round | None:
    """How far the round is that awaits labels; None where none does."""
    row = db.execute(f"{_ROUND} WHERE round = {_OPEN}", (now,)).fetchone()
    return None if row is None else _round(row)


def round_message(db: sqlite3.Connection, index: int, now: float) -> Round:
    """How far the labels of a round are.

    Raises:
        ProblemError: It has no queries.
    """
    row = db.execute(_ROUND + "WHERE round = ?", (now, index)).fetchone()
    if row is None:
        raise _unknown_round(db, index)
    return _round(row)


def all_rounds(db: sqlite3.Connection, now: float) -> list[Round]:
    """Every round with queries, in order."""
    return [_round(row) for row in db.execute(_ROUND + "ORDER BY round", (now,))]


def answers_from(db: sqlite3.Connection, labeler: str, round_index: int | None) -> int:
    """How many answers of a round count as those of a labeler."""
    row = db.execute(
        "SELECT samples FROM answers WHERE round = ? AND source = ?", (round_index, labeler)
    ).fetchone()
    return 0 if row is None else row[0]


def query_page(
    db: sqlite3.Connection, round_index: int, state: State, after: int | None, limit: int
) -> QueryPage:
    """Some queries of a round, best first.

    Raises:
        ProblemError: The round has no queries.
    """
    if db.execute("SELECT 1 FROM rounds WHERE round = ?", (round_index,)).fetchone() is None:
        raise _unknown_round(db, round_index)
    index, which = {
        "all": ("", ""),
        "open": ("INDEXED BY open_queries", "AND q.answered = 0"),
        "answered": ("INDEXED BY answered_queries", "AND q.answered = 1"),
    }[state]
    rows = db.execute(
        f"{_QUERY.format(index=index)} WHERE q.round = ? AND q.rank > ? {which} ORDER BY q.rank LIMIT ?",
        (round_index, -1 if after is None else after, limit + 1),
    ).fetchall()
    queries = _queries(db, rows[:limit])
    return QueryPage(round=round_index, queries=queries, next=queries[-1].rank if len(rows) > limit else None)


def one_query(db: sqlite3.Connection, sample_id: int) -> Query | None:
    """The sample as the last round asks it that did; None where none did."""
    rows = db.execute(
        f"{_QUERY.format(index='')} WHERE q.sample_id = ? ORDER BY q.round DESC LIMIT 1", (sample_id,)
    ).fetchall()
    return next(iter(_queries(db, rows)), None)


def held_queries(db: sqlite3.Connection, round_index: int, holder: tuple[str, str]) -> list[Query]:
    """The queries of a round that a session holds, best first."""
    rows = db.execute(
        f"{_QUERY.format(index='INDEXED BY held_queries')} "
        "WHERE q.session = ? AND q.labeler = ? AND q.round = ? ORDER BY q.rank",
        (*holder, round_index),
    ).fetchall()
    return _queries(db, rows, with_leases=True)


def said_page(db: sqlite3.Connection, sample_id: int | None, after: int | None, limit: int) -> SaidPage:
    """Some of the words, oldest first.

    Raises:
        ProblemError: `after` is not what a page has told.
    """
    begin = ("", -1)
    if after is not None:
        begin = db.execute("SELECT file, place FROM words WHERE id = ?", (after,)).fetchone()
        if begin is None:
            raise ProblemError(
                "bad-request", f"after = {after}: not the `next` of a page; begin again without it"
            )
    which = "" if sample_id is None else "AND w.sample_id = ?"
    rows = db.execute(
        f"{_WORD} WHERE (w.file, w.place) > (?, ?) {which} ORDER BY w.file, w.place LIMIT ?",
        (*begin, *([] if sample_id is None else [sample_id]), limit + 1),
    ).fetchall()
    return SaidPage(
        said=[_said(row) for row in rows[:limit]], next=rows[limit - 1][0] if len(rows) > limit else None
    )


def disagreement_page(db: sqlite3.Connection, after: int | None, limit: int) -> DisagreementPage:
    """Some of the samples of which sources have said different things; of each the last 100 words."""
    ids = db.execute(
        "SELECT sample_id FROM counted WHERE disagreed = 1 AND sample_id > ? ORDER BY sample_id LIMIT ?",
        (-1 if after is None else after, limit + 1),
    ).fetchall()
    found = []
    for (sample_id,) in ids[:limit]:
        rows = db.execute(
            f"{_WORD} WHERE w.sample_id = ? ORDER BY w.file DESC, w.place DESC LIMIT ?",
            (sample_id, _WORDS_SHOWN),
        ).fetchall()
        said = [_said(row) for row in reversed(rows)]
        found.append(Disagreement(sample_id=sample_id, round=said[-1].round, said=said))
    return DisagreementPage(disagreements=found, next=found[-1].sample_id if len(ids) > limit else None)


def labels_status(db: sqlite3.Connection, now: float) -> LabelsStatus:
    """What was asked and what was said, in numbers."""
    (corrections,) = db.execute("SELECT sum(changes) FROM counted WHERE changes > 0").fetchone()
    return LabelsStatus(
        rounds=all_rounds(db, now),
        corrections=corrections or 0,
        sources=dict(
            db.execute(
                "SELECT source, samples FROM sources WHERE samples > 0 ORDER BY samples DESC, source LIMIT ?",
                (_SOURCES_SHOWN,),
            ).fetchall()
        ),
        classes=dict(db.execute("SELECT label, samples FROM classes WHERE samples > 0 ORDER BY label")),
    )


def _class_names(db: sqlite3.Connection) -> list[str]:
    return json.loads(meta(db, "classes", "[]"))


def _round(row: Sequence[Any]) -> Round:
    index, asked, answered, skipped, accepted, sufficient, leased, is_open = row
    return Round(
        round=index,
        asked=asked,
        answered=answered,
        skipped=skipped,
        leased=leased,
        needed=needed_answers(1.0 if sufficient is None else sufficient, asked),
        accepted=bool(accepted),
        open=bool(is_open),
    )


def _unknown_round(db: sqlite3.Connection, index: int) -> ProblemError:
    (count, first, last) = db.execute("SELECT count(*), min(round), max(round) FROM rounds").fetchone()
    there = f"rounds with queries: {first} to {last}" if count else "no round has any yet"
    return ProblemError("unknown-round", f"round {index} has no queries; {there}")


def _queries(
    db: sqlite3.Connection, rows: Sequence[Sequence[Any]], *, with_leases: bool = False
) -> list[Query]:
    if not rows:
        return []
    classes = _class_names(db)
    near: list[list[tuple[int, float]]] = [json.loads(row[5] or "[]") for row in rows]
    labels = _labels_of(db, {sample_id for each in near for sample_id, _ in each})
    return [
        Query(
            sample_id=sample_id,
            round=index,
            rank=rank,
            score=score if index > 0 else None,
            predicted=classes[predicted] if predicted is not None and predicted < len(classes) else None,
            neighbors=[
                Neighbor(sample_id=neighbor, distance=distance, label=labels[neighbor])
                for neighbor, distance in found
                if neighbor in labels
            ],
            answered=bool(answered),
            label=label,
            leased_until=_EPOCH + timedelta(seconds=until) if with_leases else None,
            twin=bool(twin),
        )
        for (sample_id, index, rank, score, predicted, _, answered, twin, until, label), found in zip(
            rows, near, strict=True
        )
    ]


def _labels_of(db: sqlite3.Connection, sample_ids: set[int]) -> dict[int, str]:
    return dict(
        db.execute(
            "SELECT sample_id, label FROM counted "
            "WHERE sample_id IN (SELECT value FROM json_each(?)) AND label IS NOT NULL",
            (json.dumps(list(sample_ids)),),
        ).fetchall()
    )


def _said(row: Sequence[Any]) -> Said:
    _, sample_id, index, label, source, time, counts = row
    return Said(
        sample_id=sample_id,
        round=index,
        label=label,
        source=source,
        time=_EPOCH + timedelta(microseconds=time),
        counts=bool(counts),
    )

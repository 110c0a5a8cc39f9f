"""Leases: the queries that a session has before it, and that nobody else is given meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

LEASED = (
    "SELECT count(*) FROM queries INDEXED BY leases_by_end "
    "WHERE session IS NOT NULL AND until > ? AND queries.round = rounds.round"
)
"""How many queries of a round somebody has before them at a time."""


def claim(
    db: sqlite3.Connection, round_index: int, holder: tuple[str, str], count: int, now: float, until: float
) -> None:
    """Have a session hold as many queries of a round as it wants: what it holds already, then the best free.

    Args:
        db: Of the index, in a transaction.
        round_index: The round that awaits labels.
        holder: The session, and who labels there: both together are the holder.
        count: How many queries the session holds then, if there are so many; the last of what it has beyond
            that become free.
        now: The time; leases that have ended by then are free.
        until: When its leases end, those that it had included.
    """
    _free(db, "leases_by_end", "until <= ?", (now,))
    own = [rank for (rank,) in db.execute(_HELD, (*holder, round_index))]
    db.executemany(
        "UPDATE queries SET session = NULL, labeler = NULL, until = NULL WHERE round = ? AND rank = ?",
        ((round_index, rank) for rank in own[count:]),
    )
    free = db.execute(
        "SELECT rank FROM queries INDEXED BY free_queries "
        "WHERE round = ? AND answered = 0 AND session IS NULL ORDER BY rank LIMIT ?",
        (round_index, max(0, count - len(own))),
    ).fetchall()
    db.executemany(
        "UPDATE queries SET session = ?, labeler = ?, until = ? WHERE round = ? AND rank = ?",
        ((*holder, until, round_index, rank) for rank in [*own[:count], *(rank for (rank,) in free)]),
    )


def release(db: sqlite3.Connection, holder: tuple[str, str], sample_ids: Sequence[int] | None) -> None:
    """End leases of a session before their time, all of them where no samples are named."""
    if sample_ids is None:
        _free(db, "held_queries", "session = ? AND labeler = ?", holder)
    else:
        named = "session = ? AND labeler = ? AND sample_id IN (SELECT value FROM json_each(?))"
        _free(db, "held_queries", named, (*holder, json.dumps(list(sample_ids))))


def first_end(db: sqlite3.Connection, round_index: int) -> float | None:
    """When the first lease on a round's queries ends; None where there is none."""
    (until,) = db.execute(
        "SELECT min(until) FROM queries INDEXED BY leases_by_end WHERE session IS NOT NULL AND round = ?",
        (round_index,),
    ).fetchone()
    return until


_HELD = (
    "SELECT rank FROM queries INDEXED BY held_queries "
    "WHERE session = ? AND labeler = ? AND round = ? ORDER BY rank"
)


def _free(db: sqlite3.Connection, index: str, which: str, values: tuple[object, ...]) -> None:
    # SQLite has no statistics: left alone it goes through all queries of the round.
    db.execute(
        f"UPDATE queries INDEXED BY {index} SET session = NULL, labeler = NULL, until = NULL "
        f"WHERE session IS NOT NULL AND {which}",
        values,
    )

"""Words on samples in the index: which one counts, what it changed, and who disagrees."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple


class Word(NamedTuple):
    """What somebody said of a sample.

    Attributes:
        file: Name of the log's file that has it.
        place: Its row there.
        sample_id: The sample.
        label: The class's name; None for "cannot tell".
        source: Who.
        round: The round that asked.
        time: When, in microseconds since 1970.
    """

    file: str
    place: int
    sample_id: int
    label: str | None
    source: str
    round: int
    time: int


def add_words(db: sqlite3.Connection, words: Iterable[Word]) -> None:
    """Take in words in any order; those that are there already change nothing."""
    for word in words:
        added = db.execute(
            "INSERT INTO words (file, place, sample_id, label, source, round, time) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            word,
        )
        if added.rowcount:
            _count(db, word)


def add_file(db: sqlite3.Connection, name: str) -> None:
    """Note that all words of a file of the log are there."""
    db.execute(
        "INSERT INTO files (name, whole) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET whole = 1", (name,)
    )


def add_trained(
    db: sqlite3.Connection, round_index: int, labels: Iterable[tuple[int, str | None, str]]
) -> None:
    """Take in sample id, label and source of what a round was trained with: it counts where no word does."""
    db.executemany(
        "INSERT INTO counted VALUES (?, ?, ?, '', ?, 0, 0, 0) ON CONFLICT (sample_id) DO UPDATE SET "
        "label = excluded.label, source = excluded.source, place = excluded.place "
        "WHERE counted.words = 0 AND counted.place <= excluded.place",
        ((sample_id, label, source, round_index) for sample_id, label, source in labels),
    )


def _count(db: sqlite3.Connection, word: Word) -> None:
    counts = (word.label, word.source, word.file, word.place)
    known = db.execute(
        "SELECT words, file, place, disagreed FROM counted WHERE sample_id = ?", (word.sample_id,)
    ).fetchone()
    if known is None:
        db.execute("INSERT INTO counted VALUES (?, ?, ?, ?, ?, 1, 0, 0)", (word.sample_id, *counts))
        return
    words, file, place, disagreed = known
    if words:
        db.execute(
            "UPDATE counted SET words = words + 1, changes = changes + ?, disagreed = ? WHERE sample_id = ?",
            (_changes_by(db, word), disagreed or _is_disputed(db, word), word.sample_id),
        )
    else:
        db.execute("UPDATE counted SET words = 1 WHERE sample_id = ?", (word.sample_id,))
    if (word.file, word.place) > (file, place):
        db.execute(
            "UPDATE counted SET label = ?, source = ?, file = ?, place = ? WHERE sample_id = ?",
            (*counts, word.sample_id),
        )


def _changes_by(db: sqlite3.Connection, word: Word) -> int:
    """How many more words change the one before them, now that this one stands between its neighbours."""
    place = (word.sample_id, word.file, word.place)
    before = db.execute(
        "SELECT label FROM words WHERE sample_id = ? AND (file, place) < (?, ?) "
        "ORDER BY file DESC, place DESC LIMIT 1",
        place,
    ).fetchone()
    after = db.execute(
        "SELECT label FROM words WHERE sample_id = ? AND (file, place) > (?, ?) ORDER BY file, place LIMIT 1",
        place,
    ).fetchone()
    own = (word.label,)
    changes = (before is not None and before != own) + (after is not None and after != own)
    return changes - (before is not None and after is not None and before != after)


def _is_disputed(db: sqlite3.Connection, word: Word) -> bool:
    found = db.execute(
        "SELECT 1 FROM words WHERE sample_id = ? AND source <> ? AND label IS NOT ? LIMIT 1",
        (word.sample_id, word.source, word.label),
    )
    return found.fetchone() is not None

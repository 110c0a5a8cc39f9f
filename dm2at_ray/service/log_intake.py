"""Takes into the index what was said of samples, by whomever: the files and marks of the log of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from dm2at_ray.labeling.book import LabelBook, is_file_of_log, round_of_mark
from dm2at_ray.service.index import Index
from dm2at_ray.service.words import Word, add_file, add_words

_NAMES_AT_ONCE = 1000
_WORDS_AT_ONCE = 1000

T = TypeVar("T")


class LogIntake:
    """Keeps an index up with the log of labels.

    Args:
        book: The log.
        index: The index of its run.
    """

    def __init__(self, book: LabelBook, index: Index) -> None:
        self._book = book
        self._index = index

    def take(self) -> bool:
        """Take in the log's new files and marks; whether files that were taken in before are gone."""
        with self._index.reading() as db:
            (newest,) = db.execute("SELECT max(seq) FROM files").fetchone()
            (expected,) = db.execute("SELECT count(*) FROM files WHERE seq <= ?", (newest or 0,)).fetchone()
        there = 0
        for names in _pieces(self._book.each_name(), _NAMES_AT_ONCE):
            self._take_marks(names)
            with self._index.reading() as db:
                (known,) = db.execute(
                    "SELECT count(*) FROM files WHERE seq <= ? AND name IN (SELECT value FROM json_each(?))",
                    (newest or 0, json.dumps(names)),
                ).fetchone()
                there += known
                new = db.execute(
                    "SELECT value FROM json_each(?) "
                    "WHERE value NOT IN (SELECT name FROM files) "
                    "OR value IN (SELECT name FROM files WHERE whole = 0)",
                    (json.dumps(names),),
                ).fetchall()
            for (name,) in sorted(new):
                if is_file_of_log(name):
                    self._take_file(name)
        return there < expected

    def _take_marks(self, names: list[str]) -> None:
        rounds = [each for each in map(round_of_mark, names) if each is not None]
        if rounds:
            with self._index.writing() as db:
                db.executemany(
                    "UPDATE rounds SET accepted = 1 WHERE round = ? AND accepted = 0",
                    ((each,) for each in rounds),
                )

    def _take_file(self, name: str) -> None:
        with self._index.writing() as db:
            db.execute("INSERT OR IGNORE INTO files (name, whole) VALUES (?, 0)", (name,))
        # In pieces, so that nobody who labels waits for a large import; what is there twice changes nothing.
        for words in _pieces(self._words_in(name), _WORDS_AT_ONCE):
            with self._index.writing() as db:
                add_words(db, words)
        with self._index.writing() as db:
            add_file(db, name)

    def _words_in(self, name: str) -> Iterator[Word]:
        place = 0
        for batch in self._book.read(name):
            times = batch["time"].cast(pa.int64()).to_pylist()
            columns = [batch[key].to_pylist() for key in ("sample_id", "label", "source", "round")]
            for sample_id, label, source, round_index, moment in zip(*columns, times, strict=True):
                yield Word(name, place, sample_id, label, source or "", round_index or 0, moment)
                place += 1


def _pieces(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while piece := list(islice(items, size)):
        yield piece

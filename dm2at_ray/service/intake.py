"""Takes into the index what the run, and importers elsewhere, have written into the run directory."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator
from itertools import islice
from threading import Lock
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import UserError
from dm2at_ray.labeling.book import FOLDER, LabelBook, is_file_of_log, round_of_mark
from dm2at_ray.service.index import Index, meta, set_meta
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.words import Word, add_file, add_trained, add_words
from dm2at_ray.store import RoundDirectory, RunDirectory

_NAMES_AT_ONCE = 1000
_WORDS_AT_ONCE = 1000
_REST, _LONGEST_REST = 20, 15.0
"""For so many times as long as a look took, or so many seconds, nobody looks again: a long log takes long."""
_QUICK = 0.2

T = TypeVar("T")


class Intake:
    """Keeps an index up with its run directory.

    Args:
        run: The run directory.
        index: Its index.
    """

    def __init__(self, run: RunDirectory, index: Index) -> None:
        self._run = run
        self._book = LabelBook(run)
        self._index = index
        self._turn = Lock()
        self._looked = -math.inf
        self._cost = 0.0
        root = run.files.local_root
        self._log_folder = None if root is None else root / FOLDER
        self._log_mark: int | None = None

    def look(self, older_than: float) -> None:
        """Take in what is new, where the last look is older than so many seconds; always for 0.

        Who comes while another looks does not wait for them, unless it is the first look or an ordered one.

        Raises:
            ProblemError: The run directory cannot be read.
        """
        ordered = older_than <= 0 or self._looked == -math.inf
        rest = min(_REST * self._cost, _LONGEST_REST)
        if not ordered and time.monotonic() - self._looked < max(older_than, rest):
            return
        first = self._looked == -math.inf
        if not self._turn.acquire(blocking=ordered):
            return
        try:
            if first and self._looked != -math.inf and older_than > 0:
                return
            begin = time.monotonic()
            self._take_all()
            self._looked = time.monotonic()
            self._cost = self._looked - begin
        except (OSError, pa.ArrowException, UserError) as error:
            raise ProblemError(
                "unreachable", f"run {self._run.name}: {' '.join(str(error).split())}"
            ) from error
        finally:
            self._turn.release()

    def look_before_writing(self) -> None:
        """Take in what others have just added to the log, where that is seen without listing it."""
        mark = self._mark_of_log()
        if mark != self._log_mark:
            # Where the log takes long to list, those who answer do not wait for it again and again.
            self.look(0 if self._cost < _QUICK else 1e-3)
            self._log_mark = mark

    def has_written(self) -> None:
        """Note that the last change of the log's folder was our own."""
        self._log_mark = self._mark_of_log()

    def _mark_of_log(self) -> int | None:
        try:
            return None if self._log_folder is None else self._log_folder.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _take_all(self) -> None:
        with self._index.reading() as db:
            known = _known_marks(db)
        if self._marks([name for name, _ in known]) != [mark for _, mark in known]:
            # Another run lies there now. A second server of this cache may have noticed it first.
            self._index.clear(lambda db: _known_marks(db) == known)
        self._take_settings()
        self._take_rounds()
        if self._take_log() and self._take_log():
            # Files of the log are gone for good: somebody has taken them away.
            self._index.clear()
            self._take_rounds()
            self._take_log()
            self._take_settings()

    def _marks(self, names: list[str]) -> list[str | None]:
        """Of each file a word that changes with it; None where there is none."""
        files = self._run.files
        infos = files.filesystem.get_file_info([files.path(name) for name in names]) if names else []
        return [None if i.type == fs.FileType.NotFound else f"{i.mtime_ns}:{i.size}" for i in infos]

    def _take_settings(self) -> None:
        """The names of the classes, and what the config says of people's labels."""
        of_classes, of_config = self._marks(["classes.json", "config.yaml"])
        with self._index.reading() as db:
            before = meta(db, "classes_mark"), meta(db, "config_mark")
        new: dict[str, str | float | None] = {}
        if of_classes != before[0]:
            new |= {"classes_mark": of_classes, "classes": json.dumps(self._run.class_names())}
        if of_config != before[1]:
            new["config_mark"] = of_config
            if of_config is not None:
                query = self._run.config().query
                new |= {"oracle": query.oracle, "sufficient": query.sufficient}
        if new:
            with self._index.writing() as db:
                for key, value in new.items():
                    set_meta(db, key, value)

    def _take_rounds(self) -> None:
        """What the rounds have that are not final yet, or were not when they were last looked at."""
        with self._index.reading() as db:
            (final,) = db.execute("SELECT max(round) FROM rounds WHERE committed = 1").fetchone()
        for name in sorted(self._run.files.each_name("rounds")):
            if name.isdigit() and (final is None or int(name) > final):
                self._take_round(self._run.round(int(name)))

    def _take_round(self, round_: RoundDirectory) -> None:
        names = set(round_.files.each_name())
        if "queries.parquet" not in names:
            return
        with self._index.reading() as db:
            known = db.execute(
                "SELECT context, labeled, (SELECT count(*) FROM twin_parts t WHERE t.round = r.round) "
                "FROM rounds r WHERE round = ?",
                (round_.index,),
            ).fetchone()
        if known is None:
            self._take_queries(round_)
        context, labeled, twin_parts = known or (0, 0, 0)
        if "context.parquet" in names and not context:
            self._take_context(round_)
        if "adversarial" in names:
            self._take_twins(round_, twin_parts)
        if "labels.parquet" in names and not labeled:
            self._take_labels(round_)
        if "COMMITTED" in names:
            with self._index.writing() as db:
                db.execute("UPDATE rounds SET committed = 1 WHERE round = ?", (round_.index,))

    def _take_queries(self, round_: RoundDirectory) -> None:
        (mark,) = self._marks([_queries_of(round_.index)])
        columns = ["sample_id", "rank", "score", "predicted_label"]
        with self._index.writing() as db:
            ours = (round_.index, mark)
            if not db.execute("INSERT OR IGNORE INTO rounds (round, mark) VALUES (?, ?)", ours).rowcount:
                # A second server of this cache was faster.
                return
            for batch in round_.files.read_batches("queries.parquet", columns):
                db.executemany(
                    "INSERT INTO queries "
                    "(round, sample_id, rank, score, predicted, answered, skipped, source) "
                    "SELECT :round, :sample_id, :rank, :score, :predicted_label, c.sample_id IS NOT NULL, "
                    "c.sample_id IS NOT NULL AND c.label IS NULL, c.source "
                    "FROM (SELECT 1) LEFT JOIN counted c ON c.sample_id = :sample_id",
                    ({**row, "round": round_.index} for row in batch.to_pylist()),
                )

    def _take_context(self, round_: RoundDirectory) -> None:
        with self._index.writing() as db:
            for batch in round_.files.read_batches("context.parquet"):
                db.executemany(
                    "UPDATE queries SET neighbors = ? WHERE round = ? AND sample_id = ?",
                    ((json.dumps(_near(row)), round_.index, row["sample_id"]) for row in batch.to_pylist()),
                )
            db.execute("UPDATE rounds SET context = 1 WHERE round = ?", (round_.index,))

    def _take_twins(self, round_: RoundDirectory, taken: int) -> None:
        names = list(round_.files.each_name("adversarial"))
        if len(names) == taken:
            return
        with self._index.writing() as db:
            for name in names:
                ours = (round_.index, name)
                if db.execute("INSERT OR IGNORE INTO twin_parts VALUES (?, ?)", ours).rowcount:
                    for batch in round_.files.read_batches(f"adversarial/{name}", ["sample_id"]):
                        db.executemany(
                            "UPDATE queries SET twin = 1 WHERE round = ? AND sample_id = ?",
                            ((round_.index, sample_id) for sample_id in batch["sample_id"].to_pylist()),
                        )

    def _take_labels(self, round_: RoundDirectory) -> None:
        names = self._run.class_names()
        with self._index.writing() as db:
            for batch in round_.files.read_batches("labels.parquet"):
                add_trained(
                    db,
                    round_.index,
                    (
                        (
                            row["sample_id"],
                            _name_of(row["label"], names),
                            row["source"] or "",
                        )
                        for row in batch.to_pylist()
                    ),
                )
            db.execute("UPDATE rounds SET labeled = 1 WHERE round = ?", (round_.index,))

    def _take_log(self) -> bool:
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


def _known_marks(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Names and marks of the queries of the first and of the last round that were taken in."""
    rows = db.execute(
        "SELECT round, mark FROM rounds WHERE round IN "
        "((SELECT min(round) FROM rounds), (SELECT max(round) FROM rounds)) ORDER BY round"
    )
    return [(_queries_of(round_index), mark) for round_index, mark in rows]


def _queries_of(round_index: int) -> str:
    return f"rounds/{round_index:04d}/queries.parquet"


def _pieces(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while piece := list(islice(items, size)):
        yield piece


def _name_of(label: int | None, names: list[str]) -> str | None:
    """Name of a class; its number where the run does not tell its name."""
    return None if label is None else names[label] if label < len(names) else str(label)


def _near(row: dict[str, list[float] | None]) -> list[tuple[float, float]]:
    pairs = zip(row["labeled_neighbor_ids"] or [], row["labeled_neighbor_distances"] or [], strict=True)
    return [(sample_id, distance) for sample_id, distance in pairs if math.isfinite(distance)]

"""Takes into the index what the run has written: its settings, and what each round has left."""

from __future__ import annotations

import json
import math
import sqlite3

from pyarrow import fs

from dm2at_ray.service.index import Index, meta, set_meta
from dm2at_ray.service.words import add_trained
from dm2at_ray.store import RoundDirectory, RunDirectory


class RoundIntake:
    """Keeps an index up with the rounds of its run.

    Args:
        run: The run directory.
        index: Its index.
    """

    def __init__(self, run: RunDirectory, index: Index) -> None:
        self._run = run
        self._index = index

    def take(self) -> None:
        """Take in what is new."""
        self._take_settings()
        self._take_rounds()

    def forget_another_run(self) -> None:
        """Begin the index anew where the queries of its first or of its last round are now others."""
        with self._index.reading() as db:
            known = _known_marks(db)
        if self._marks([name for name, _ in known]) != [mark for _, mark in known]:
            # A second server of this cache may have noticed it first.
            self._index.clear(lambda db: _known_marks(db) == known)

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
                        (row["sample_id"], _name_of(row["label"], names), row["source"] or "")
                        for row in batch.to_pylist()
                    ),
                )
            db.execute("UPDATE rounds SET labeled = 1 WHERE round = ?", (round_.index,))


def _known_marks(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Names and marks of the queries of the first and of the last round that were taken in."""
    rows = db.execute(
        "SELECT round, mark FROM rounds WHERE round IN "
        "((SELECT min(round) FROM rounds), (SELECT max(round) FROM rounds)) ORDER BY round"
    )
    return [(_queries_of(round_index), mark) for round_index, mark in rows]


def _queries_of(round_index: int) -> str:
    return f"rounds/{round_index:04d}/queries.parquet"


def _name_of(label: int | None, names: list[str]) -> str | None:
    """Name of a class; its number where the run does not tell its name."""
    return None if label is None else names[label] if label < len(names) else str(label)


def _near(row: dict[str, list[float] | None]) -> list[tuple[float, float]]:
    pairs = zip(row["labeled_neighbor_ids"] or [], row["labeled_neighbor_distances"] or [], strict=True)
    return [(sample_id, distance) for sample_id, distance in pairs if math.isfinite(distance)]

"""The index of a run: an SQLite file that can be thrown away at any time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from dm2at_ray.service.index_schema import SCHEMA, TABLES, VERSION
from dm2at_ray.service.locks import locked

_CACHE_KIB = 4096
_BUSY_SECONDS = 30.0


class Index:
    """What a run directory says, made over for questions, with the leases, which are nowhere else.

    One connection writes and another reads, so that a long answer keeps nobody from writing. A file that is
    damaged, of other tables or of another run is begun anew, and empty.

    Args:
        path: Where it lies; the folder is made.
        run_uri: Of the run directory.
    """

    def __init__(self, path: Path, run_uri: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._about = {"version": VERSION, "run": run_uri}
        # Two servers of one cache may come at once: neither may remove what the other has just begun.
        with locked(path.parent):
            self._writer = self._open()
        self._reader = _connect(path)
        self._write_lock, self._read_lock = Lock(), Lock()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside; all of it counts or, after an error, nothing."""
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the index, whatever is written meanwhile."""
        with self._read_lock:
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    def clear(self, still: Callable[[sqlite3.Connection], bool] = lambda _: True) -> None:
        """Forget everything, leases included, where `still` says so while nobody else writes."""
        with self.writing() as db:
            if still(db):
                for table in TABLES:
                    db.execute(f"DELETE FROM {table}")
                self._sign(db)

    def close(self) -> None:
        """Close the file."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    def _open(self) -> sqlite3.Connection:
        try:
            db = _connect(self.path)
            if self._is_sound(db):
                return db
            db.close()
        except sqlite3.DatabaseError:
            pass
        remove_index(self.path)
        db = _connect(self.path)
        db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        db.execute("BEGIN IMMEDIATE")
        self._sign(db)
        db.execute("COMMIT")
        return db

    def _is_sound(self, db: sqlite3.Connection) -> bool:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables.issuperset(TABLES):
            return False
        about = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('version', 'run')"))
        return about == self._about and db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)

    def _sign(self, db: sqlite3.Connection) -> None:
        db.executemany("INSERT INTO meta VALUES (?, ?)", self._about.items())


def meta(db: sqlite3.Connection, key: str, default: Any = None) -> Any:
    """A value that stands for itself in the index."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else row[0]


def set_meta(db: sqlite3.Connection, key: str, value: Any) -> None:
    """Write such a value."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def remove_index(path: Path) -> None:
    """Remove the files of an index."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    # Nothing is waited for on disk: what a power cut takes is read from the run directory again.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return db

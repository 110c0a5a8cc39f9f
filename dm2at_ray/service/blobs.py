"""What was made once, kept on the local disk within a number of bytes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

_LEFT = 0.9
"""Share of the capacity that making room leaves, so that not every new one has to make room again."""
_LOOK_SECONDS = 60
"""A later use is noted no more often than so: reading would write all the time else."""


@dataclass(frozen=True)
class Blob:
    """A file that was made.

    Attributes:
        data: Its bytes.
        media_type: What it is.
        etag: Of these bytes, in quotes, as HTTP's header has it.
    """

    data: bytes
    media_type: str
    etag: str


class BlobCache:
    """An LRU of blobs in an SQLite file: nothing of it grows in memory, and it may be deleted at any time.

    For any number of threads, and for several servers that share a folder. A disk that is full or a file that
    is damaged makes it forget, and nothing else.

    Args:
        path: The file; made anew where it is none of SQLite's. Its folder is made for this user alone.
        capacity: Bytes of all blobs together; the file is a little larger.
        clock: Seconds; the machine's if left out.
    """

    def __init__(self, path: Path, capacity: int, clock: Callable[[], float] = time.time) -> None:
        self._capacity = capacity
        self._clock = clock
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._base = _open(path)
        except sqlite3.DatabaseError:
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
            self._base = _open(path)

    def get(self, key: str) -> Blob | None:
        """What is kept under a key."""
        now = int(self._clock())
        with self._lock:
            try:
                row = self._base.execute(_FIND, (key,)).fetchone()
                if row and now - row[4] > _LOOK_SECONDS:
                    self._base.execute("UPDATE blobs SET used = ? WHERE id = ?", (now, row[3]))
            except sqlite3.DatabaseError:
                return None
        return Blob(*row[:3]) if row else None

    def put(self, key: str, blob: Blob) -> None:
        """Keep a blob, and let go of those not used for longest; one beyond the capacity is not kept."""
        if len(blob.data) > self._capacity:
            return
        facts = (key, blob.media_type, blob.etag, len(blob.data), int(self._clock()))
        with self._lock:
            try:
                with self._base:
                    self._base.execute("BEGIN IMMEDIATE")
                    self._base.execute("DELETE FROM blobs WHERE key = ?", (key,))
                    row = self._base.execute(_ADD, facts).lastrowid
                    self._base.execute("INSERT INTO data VALUES (?, ?)", (row, blob.data))
                    self._make_room()
            except sqlite3.DatabaseError:
                return

    def size(self) -> int:
        """Bytes of all blobs."""
        with self._lock:
            return self._base.execute("SELECT total FROM size").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def _make_room(self) -> None:
        total = self._base.execute("SELECT total FROM size").fetchone()[0]
        if total <= self._capacity:
            return
        gone: list[tuple[int]] = []
        for row, size in self._base.execute("SELECT id, size FROM blobs ORDER BY used, id LIMIT 1000"):
            if total <= _LEFT * self._capacity:
                break
            gone.append((row,))
            total -= size
        self._base.executemany("DELETE FROM blobs WHERE id = ?", gone)


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        # Nothing here has to outlive a power cut.
        for line in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", *_SCHEMA):
            base.execute(line)
        base.execute(_FIND, ("",))
    except BaseException:
        base.close()
        raise
    return base


_FIND = "SELECT data, media_type, etag, id, used FROM blobs JOIN data USING (id) WHERE key = ?"
_ADD = "INSERT INTO blobs (key, media_type, etag, size, used) VALUES (?, ?, ?, ?, ?)"
# The bytes have a table of their own: to note a use would write them anew else.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS blobs (id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, "
    "media_type TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS data (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_use ON blobs (used, id, size)",
    "CREATE TABLE IF NOT EXISTS size (total INTEGER NOT NULL)",
    "INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM size)",
    "CREATE TRIGGER IF NOT EXISTS more AFTER INSERT ON blobs "
    "BEGIN UPDATE size SET total = total + NEW.size; END",
    "CREATE TRIGGER IF NOT EXISTS less AFTER DELETE ON blobs "
    "BEGIN UPDATE size SET total = total - OLD.size; DELETE FROM data WHERE id = OLD.id; END",
)

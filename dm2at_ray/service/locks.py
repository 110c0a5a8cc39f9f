"""Locks: one for each run that somebody changes just now, and one that other processes respect."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Nobody else who asks for the folder so, in this process or another, is in it meanwhile.

    Yields:
        The folder's file descriptor.

    Raises:
        OSError: The folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems know no locks.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class RunLocks:
    """Locks by the name of the run; each goes with the last who holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: weakref.WeakValueDictionary[str, _RunLock] = weakref.WeakValueDictionary()

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Nobody else in this process holds the run's lock meanwhile."""
        with self._guard:
            lock = self._locks.get(name)
            if lock is None:
                lock = self._locks[name] = _RunLock()
        with lock.lock:
            yield


class _RunLock:
    """A lock that a weak reference can be taken of."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

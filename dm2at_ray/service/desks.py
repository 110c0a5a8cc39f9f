"""The desks that are open: a few, however many runs there are."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dm2at_ray.service.desk import Desk
from dm2at_ray.service.index import remove_index
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory


class _Place:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.desk: Desk | None = None
        self.users = 0


class Desks:
    """Opens the desks of runs, and closes those that were not used for longest.

    Args:
        cache: Folder of the indices, which is made; each of them may be removed while no desk is open.
        most_open: Desks that are kept open; more only while more are in use at once.
        lease_seconds: How long a query that was handed out is nobody else's.

    Examples:
        with desks.at(run) as desk:
            lease = desk.claim("ann", "window-1", 5)
    """

    def __init__(self, cache: Path, most_open: int = 8, lease_seconds: float = 120) -> None:
        self._cache = cache
        self._most_open = most_open
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._places: OrderedDict[str, _Place] = OrderedDict()

    @contextmanager
    def at(self, run: RunDirectory) -> Iterator[Desk]:
        """The desk of a run, open as long as it is used.

        Raises:
            ProblemError: Its index cannot be used any more; the next call has a new one.
        """
        place = self._enter(run.uri)
        path = self._path(run)
        try:
            with place.lock:
                if place.desk is None:
                    place.desk = Desk(run, path, lease_seconds=self._lease_seconds)
            yield place.desk
        except sqlite3.Error as error:
            self._forget(run.uri, place, path)
            raise ProblemError(
                "unreachable", f"index of run {run.name}: {error}; it is built again, so ask again"
            ) from error
        finally:
            self._leave(place)

    def close(self) -> None:
        """Close all that are not in use."""
        self._close_unused(0)

    def _path(self, run: RunDirectory) -> Path:
        return self._cache / f"{hashlib.sha256(run.uri.encode()).hexdigest()[:32]}.sqlite"

    def _enter(self, key: str) -> _Place:
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            place.users += 1
        return place

    def _leave(self, place: _Place) -> None:
        with self._lock:
            place.users -= 1
            if place.users == 0 and place not in self._places.values() and place.desk is not None:
                place.desk.close()
        self._close_unused(self._most_open)

    def _forget(self, key: str, place: _Place, path: Path) -> None:
        """Have the next one open a new desk, on a new index; the last user of this one closes it."""
        with self._lock:
            if self._places.get(key) is place:
                del self._places[key]
                remove_index(path)

    def _close_unused(self, most: int) -> None:
        with self._lock:
            unused = [key for key, place in self._places.items() if place.users == 0]
            closed = [self._places.pop(key) for key in unused[: max(0, len(self._places) - most)]]
        for place in closed:
            if place.desk is not None:
                place.desk.close()

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

_MENDING_SECONDS = 10.0


class _Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.desk: Desk | None = None
        self.users = 0
        self.is_broken = False

    def close(self) -> None:
        """Close the desk, and remove an index that cannot be used."""
        if self.desk is not None:
            self.desk.close()
            self.desk = None
        if self.is_broken:
            remove_index(self.path)
            self.is_broken = False


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
        self._lock = threading.Condition()
        self._places: OrderedDict[str, _Place] = OrderedDict()

    @contextmanager
    def at(self, run: RunDirectory) -> Iterator[Desk]:
        """The desk of a run, open as long as it is used.

        Raises:
            ProblemError: Its index cannot be used any more; the next call has a new one.
        """
        place = self._enter(run)
        try:
            with place.lock:
                if place.desk is None:
                    place.desk = Desk(run, place.path, lease_seconds=self._lease_seconds)
            yield place.desk
        except sqlite3.Error as error:
            place.is_broken = True
            raise self._unusable(run, str(error)) from error
        finally:
            self._leave(place)

    def close(self) -> None:
        """Close all that are not in use."""
        self._close_unused(0)

    def _path(self, run: RunDirectory) -> Path:
        return self._cache / f"{hashlib.sha256(run.uri.encode()).hexdigest()[:32]}.sqlite"

    def _enter(self, run: RunDirectory) -> _Place:
        with self._lock:
            place = self._places.setdefault(run.uri, _Place(self._path(run)))
            # Nobody opens an index anew that others have open: SQLite would mix up their files.
            if not self._lock.wait_for(lambda: not place.is_broken, _MENDING_SECONDS):
                raise self._unusable(run, "it is still in use")
            # Meanwhile it may have been closed as the one not used for longest.
            place = self._places.setdefault(run.uri, place)
            self._places.move_to_end(run.uri)
            place.users += 1
        return place

    def _leave(self, place: _Place) -> None:
        with self._lock:
            place.users -= 1
            if place.users == 0 and place.is_broken:
                place.close()
                self._lock.notify_all()
        self._close_unused(self._most_open)

    def _unusable(self, run: RunDirectory, why: str) -> ProblemError:
        return ProblemError("unreachable", f"index of run {run.name}: {why}; it is built again, so ask again")

    def _close_unused(self, most: int) -> None:
        with self._lock:
            unused = [key for key, place in self._places.items() if place.users == 0]
            closed = [self._places.pop(key) for key in unused[: max(0, len(self._places) - most)]]
            # Under the lock, so that nobody opens the same index meanwhile.
            for place in closed:
                place.close()

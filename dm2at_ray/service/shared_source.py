"""A source that many threads read: what they wish for meanwhile is read in one go."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source
from dm2at_ray.pool.decode import Raw

AT_ONCE = 16
"""Images that are read in one go, and so held at once."""


@dataclass
class _Wish:
    uri: str
    row: int
    found: Raw | None = None
    error: Exception | None = None


class SharedSource:
    """Reads a source for any number of threads, one batch after the other.

    Sources are not made for several threads at once. Whoever waits for its turn is served by the one before,
    so that a store's answers are awaited side by side, and a row group is read once for all who want it.

    Args:
        source: What to read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = Lock()
        self._turn = Lock()
        self._wishes: list[_Wish] = []

    def read(self, uri: str, row: int) -> Raw:
        """The raw image, as `Source.read` has it.

        Raises:
            Exception: What the source raises over this image.
        """
        wish = _Wish(uri, row)
        with self._lock:
            self._wishes.append(wish)
        while wish.found is None and wish.error is None:
            with self._turn:
                if wish.found is None and wish.error is None:
                    self._read_some()
        if wish.error is not None:
            raise wish.error
        assert wish.found is not None
        return wish.found

    def _read_some(self) -> None:
        with self._lock:
            wishes, self._wishes = self._wishes[:AT_ONCE], self._wishes[AT_ONCE:]
        try:
            raws = self._source.read([wish.uri for wish in wishes], [wish.row for wish in wishes])
            for wish, raw in zip(wishes, raws, strict=True):
                wish.found = raw
        except PoolError as error:
            # The store does not answer: to ask it for each of them would take as many times its patience.
            for wish in wishes:
                wish.error = error
        except Exception:
            # An image that may not be read does not take the others with it.
            for wish in wishes:
                try:
                    (wish.found,) = self._source.read([wish.uri], [wish.row])
                except Exception as error:
                    wish.error = error

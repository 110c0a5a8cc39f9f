"""The thread that brings runs into line with what is wanted of them, also after a crash."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

MOST_AWAITED = 1000
"""Runs to look at soon; further ones wait for the next sweep."""
CLOSE_SECONDS = 5.0
SHARE_OF_TIME = 0.05
"""Of the time, at most so much goes to sweeps, however many runs there are."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Looks at runs that it is told of, and from time to time at all.

    Args:
        look: Brings one run into line; returns after how many seconds it is to be looked at again, None for
            not before the next sweep.
        names: Names of all runs.
        sweep_seconds: Time between two sweeps.
    """

    def __init__(
        self,
        look: Callable[[str], float | None],
        names: Callable[[], Iterable[str]],
        sweep_seconds: float,
    ) -> None:
        self._look = look
        self._names = names
        self._sweep_seconds = sweep_seconds
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin with a sweep."""
        self._thread.start()

    def close(self) -> None:
        """End; a look that takes long is left alone, and done again by the next server."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def soon(self, name: str, seconds: float = 0.0) -> None:
        """Have a run looked at; a run that is waited for already keeps the earlier time."""
        moment = time.monotonic() + seconds
        with self._changed:
            if name in self._due or len(self._due) < MOST_AWAITED:
                self._due[name] = min(self._due.get(name, moment), moment)
                self._changed.notify_all()

    def _work(self) -> None:
        next_sweep = time.monotonic()
        while True:
            name = self._next(next_sweep)
            if self._is_closed:
                return
            if name is not None:
                self._try(name)
                continue
            began = time.monotonic()
            self._sweep()
            took = time.monotonic() - began
            next_sweep = time.monotonic() + max(self._sweep_seconds, took / SHARE_OF_TIME)

    def _next(self, next_sweep: float) -> str | None:
        """The run whose time has come; None when that of a sweep has, or the end."""
        with self._changed:
            while not self._is_closed:
                name = min(self._due, key=self._due.__getitem__, default=None)
                moment = self._due[name] if name is not None else next_sweep
                wait = min(moment, next_sweep) - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                elif name is not None and moment <= time.monotonic():
                    del self._due[name]
                    return name
                else:
                    return None
        return None

    def _sweep(self) -> None:
        try:
            for name in self._names():
                if self._is_closed:
                    return
                self._try(name)
        except Exception:
            logger.exception("the sweep over the runs was cut short")

    def _try(self, name: str) -> None:
        try:
            again = self._look(name)
        except Exception as error:
            # One run must not keep the others waiting, whatever is wrong with it.
            logger.warning("run %s could not be brought into line: %s", name, error, exc_info=True)
            return
        if again is not None:
            self.soon(name, again)

"""Group commit: those who come while one is at work are served together by the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Waiting(Generic[Request, Result]):
    def __init__(self, request: Request) -> None:
        self.request = request
        self.result: Result | Exception | None = None
        self.called = Event()


class GroupCommit(Generic[Request, Result]):
    """Hands requests of many threads to one function at a time, all that wait at once, in order of arrival.

    Who comes first leads: commits for all who wait by then, and hands over to the first who came meanwhile.

    Args:
        commit: Takes requests and gives each its result, or the error that is to be raised to it.
        most: Requests in one go.

    Examples:
        >>> GroupCommit(lambda numbers: [2 * number for number in numbers])(21)
        42
    """

    def __init__(
        self, commit: Callable[[Sequence[Request]], Sequence[Result | Exception]], most: int = 256
    ) -> None:
        self._commit = commit
        self._most = most
        self._waiting: list[_Waiting[Request, Result]] = []
        self._is_led = False
        self._lock = Lock()

    def __call__(self, request: Request) -> Result:
        """Have a request done; blocks until it is."""
        own = _Waiting[Request, Result](request)
        with self._lock:
            self._waiting.append(own)
            leads, self._is_led = not self._is_led, True
        if not leads:
            own.called.wait()
        if own.result is None:
            self._lead()
        assert own.result is not None
        if isinstance(own.result, Exception):
            raise own.result
        return own.result

    def _lead(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        results: Sequence[Result | Exception] = [RuntimeError("the commit was interrupted")] * len(group)
        try:
            results = self._commit([each.request for each in group])
        except Exception as error:  # whatever it is, nobody may wait for ever
            results = [error] * len(group)
        finally:
            for each, result in zip(group, results, strict=True):
                each.result = result
                each.called.set()
            with self._lock:
                self._is_led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].called.set()

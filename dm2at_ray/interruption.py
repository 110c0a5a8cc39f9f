"""What SIGINT and SIGTERM do to a command: it ends what it started, and says what is left of its work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A signal asked the command to end.

    Args:
        number: The signal.
        left: What is left of the work that was stopped.
    """

    def __init__(self, number: int, left: str) -> None:
        super().__init__(number)
        self.number = number
        self.left = left


@contextmanager
def signals_raise(left: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an exception, so that all is ended on the way out; the first counts.

    Args:
        left: What is left of the work where it is stopped.

    Raises:
        Interrupted: A signal came.
    """
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        # Nothing else leaves Ray's C++ as it is.
        raise KeyboardInterrupt

    before: dict[int, Any] = {
        each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(received[0], left) from None
    for each, handler in before.items():
        signal.signal(each, handler)

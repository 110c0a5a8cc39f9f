"""A job's log, printed as it grows: every line once, however often the stream breaks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import aiohttp

from dm2at_ray.errors import UserError
from dm2at_ray.submission.client import JobClient, RefusedError, UnreachableError

QUIET_SECONDS = 120.0
"""After so long without a word the stream is opened anew: a dead connection says nothing either."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
LOOK_SECONDS = 0.2
JOIN_SECONDS = 5.0

logger = logging.getLogger(__name__)


class LogFollower:
    """Follows the log of a job in a thread of its own.

    Each stream that Ray opens begins with the log's first character, and so does the log when it is asked for
    as a whole; what was passed on already is skipped by its length.

    Args:
        client: The job API.
        job_id: The job.
        emit: Takes the log, piece by piece.
    """

    def __init__(self, client: JobClient, job_id: str, emit: Callable[[str], None]) -> None:
        self._client = client
        self._job_id = job_id
        self._emit = emit
        self._passed_on = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log", daemon=True)

    def __enter__(self) -> LogFollower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # A request on its way may take its full time; whoever presses Ctrl-C does not wait for that.
        self._thread.join(timeout=JOIN_SECONDS)

    def finish(self, seconds: float) -> bool:
        """Pass on the rest of a job that has ended; whether that was possible.

        Args:
            seconds: How long to try.
        """
        self.__exit__()
        deadline = time.monotonic() + seconds
        while True:
            if self._catch_up():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(FIRST_PAUSE_SECONDS)

    def _follow(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            before = self._passed_on
            try:
                asyncio.run(self._stream())
            except (RuntimeError, OSError, aiohttp.ClientError, UserError) as error:
                logger.debug("the log stream of %s broke: %s", self._job_id, error)
            pause = FIRST_PAUSE_SECONDS if self._passed_on > before else min(2 * pause, LONGEST_PAUSE_SECONDS)
            if not self._stop.wait(pause):
                # Where no stream gets through, as behind some proxies, the log comes in these steps.
                self._catch_up()

    async def _stream(self) -> None:
        """One stream, until it ends, breaks, or has said nothing for long."""
        at = 0
        stream = self._client.tail_job_logs(self._job_id)
        piece = asyncio.ensure_future(anext(stream))
        heard = time.monotonic()
        try:
            while not self._stop.is_set() and time.monotonic() - heard < QUIET_SECONDS:
                if not (await asyncio.wait({piece}, timeout=LOOK_SECONDS))[0]:
                    continue
                text = piece.result()
                at = self._pass_on(text, at)
                heard = time.monotonic()
                piece = asyncio.ensure_future(anext(stream))
        except StopAsyncIteration:
            return
        finally:
            piece.cancel()
            await asyncio.wait({piece})
            await stream.aclose()

    def _catch_up(self) -> bool:
        try:
            self._pass_on(self._client.get_job_logs(self._job_id), 0)
        except (UnreachableError, RefusedError, UserError) as error:
            logger.debug("the log of %s cannot be had: %s", self._job_id, error)
            return False
        return True

    def _pass_on(self, text: str, at: int) -> int:
        """Emit what is new of a text that begins at character `at`; where it ends."""
        end = at + len(text)
        with self._lock:
            new = text[max(0, self._passed_on - at) :]
            if new:
                self._emit(new)
                self._passed_on = end
        return end

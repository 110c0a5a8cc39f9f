"""Runs watched by many: one look at a run for all who watch it, and no thread for who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

_LOOKS_AT_ONCE = 4
"""Runs looked at in the same moment; requests have threads of their own."""
COMMENT = b": still here\n\n"


class _Watch:
    """A run that somebody watches: what it said last, and who waits for its next word."""

    def __init__(self, name: str, status: bytes) -> None:
        self.name = name
        self.status = status
        self.version = 1
        self.ended = False
        self.waiting: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None

    def tell(self, status: bytes) -> None:
        """Wake all if it is news."""
        if status != self.status:
            self.status = status
            self.version += 1
            self.wake()

    def wake(self) -> None:
        """Let all look."""
        for event in self.waiting:
            event.set()


class Subscription:
    """One who watches; `close` it whatever happens."""

    def __init__(self, watch: _Watch, leave: Callable[[Subscription], None], comment_seconds: float) -> None:
        self._watch = watch
        self._leave = leave
        self._comment_seconds = comment_seconds
        self._event = asyncio.Event()
        watch.waiting.add(self._event)

    async def parts(self, still_allowed: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """What is sent: the status at once and whenever it changes, a comment where it is silent for long.

        Args:
            still_allowed: Whether whoever watches still may; asked before anything is sent.
        """
        seen = 0
        while not self._watch.ended and await still_allowed():
            if self._watch.version != seen:
                seen = self._watch.version
                yield b"event: status\ndata: " + self._watch.status + b"\n\n"
                continue
            self._event.clear()
            with anyio.move_on_after(self._comment_seconds) as waiting:
                await self._event.wait()
            if waiting.cancelled_caught:
                yield COMMENT

    def close(self) -> None:
        """Watch no more."""
        self._watch.waiting.discard(self._event)
        self._leave(self)

    @property
    def watch(self) -> _Watch:
        """What is watched."""
        return self._watch


class Events:
    """All who watch runs; belongs to one event loop.

    Args:
        status: Gives a run's status as JSON; called in a thread; raises ProblemError where there is none.
        settings: Bounds and times.
    """

    def __init__(self, status: Callable[[str], bytes], settings: ServiceSettings) -> None:
        self._status = status
        self._settings = settings
        self._watches: dict[str, _Watch] = {}
        self._subscriptions: set[Subscription] = set()
        self._limiter: anyio.CapacityLimiter | None = None
        self._closed = False

    @property
    def subscribers(self) -> int:
        """How many watch."""
        return len(self._subscriptions)

    async def subscribe(self, name: str) -> Subscription:
        """Begin to watch a run.

        Raises:
            ProblemError: `unknown-run`; `busy`: too many watch, or the service ends.
        """
        self._check_room()
        status = await self._look(name)
        self._check_room()
        watch = self._watches.get(name)
        if watch is None:
            watch = self._watches[name] = _Watch(name, status)
            watch.task = asyncio.create_task(self._follow(watch))
        watch.tell(status)
        subscription = Subscription(watch, self._leave, self._settings.comment_seconds)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End all streams and take no more."""
        self._closed = True
        for watch in list(self._watches.values()):
            self._end(watch)

    def _check_room(self) -> None:
        if self._closed:
            raise ProblemError("busy", "the service ends; ask again in a moment")
        if len(self._subscriptions) >= self._settings.max_subscribers:
            raise ProblemError(
                "busy",
                f"{self._settings.max_subscribers} watch runs already; ask for the status now and then",
            )

    async def _look(self, name: str) -> bytes:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_LOOKS_AT_ONCE)
        return await anyio.to_thread.run_sync(self._status, name, limiter=self._limiter)

    async def _follow(self, watch: _Watch) -> None:
        failed = False
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                watch.tell(await self._look(watch.name))
                failed = False
            except ProblemError as error:
                if error.status == 404:
                    break
            except Exception:
                # The storage may be back at the next look; its silence is told once.
                if not failed:
                    logger.exception("run %s: it is watched and cannot be looked at", watch.name)
                failed = True
        self._end(watch)

    def _leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
        if not subscription.watch.waiting:
            self._end(subscription.watch)

    def _end(self, watch: _Watch) -> None:
        watch.ended = True
        watch.wake()
        if self._watches.get(watch.name) is watch:
            del self._watches[watch.name]
        if watch.task is not None:
            watch.task.cancel()


class EventStream(StreamingResponse):
    """A stream of events that gives its place back however it ends."""

    media_type = "text/event-stream"

    def __init__(self, subscription: Subscription, still_allowed: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(subscription.parts(still_allowed), headers={"X-Accel-Buffering": "no"})
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client goes or the stream ends."""
        try:
            with contextlib.suppress(OSError):
                await super().__call__(scope, receive, send)
        finally:
            self._subscription.close()

"""What the service tells Prometheus of itself; no series is made by what a client sends."""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dm2at_ray.client.schemas import Answered
from dm2at_ray.service.answers import path_of

access = logging.getLogger("dm2at_ray.service.access")

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}


class ServiceMetrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "dm2at_service_requests",
            "Requests answered, by the template of their route.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "dm2at_service_request_seconds",
            "Time from a request to the first byte of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "dm2at_service_requests_in_flight",
            "Requests at work, event streams included.",
            registry=self.registry,
        )
        self._answers = Counter(
            "dm2at_service_answers",
            "Labels posted, by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self._subscribers = Gauge(
            "dm2at_service_event_subscribers", "Event streams that are open.", registry=self.registry
        )

    def watch_subscribers(self, count: Callable[[], int]) -> None:
        """Take the number of event streams from here."""
        self._subscribers.set_function(count)

    def answered(self, outcomes: Iterable[Answered]) -> None:
        """Count labels."""
        for outcome, count in Tally(answer.outcome for answer in outcomes).items():
            self._answers.labels(outcome).inc(count)

    def exposition(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def begun(self) -> None:
        """A request came."""
        self._in_flight.inc()

    def told(self, route: str, method: str, code: int, seconds: float) -> None:
        """An answer began."""
        self._requests.labels(route, method if method in METHODS else "other", str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def ended(self) -> None:
        """A request is done."""
        self._in_flight.dec()


class Measured:
    """Counts and times requests, and logs them if wanted: a layer around an app.

    Args:
        app: The application.
        metrics: Where they are counted.
        log: Whether each is logged.
    """

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def timed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - began
                self._metrics.told(_template(scope), scope["method"], message["status"], seconds)
                if self._log:
                    _log(scope, message["status"], seconds)
            await send(message)

        self._metrics.begun()
        try:
            await self._app(scope, receive, timed_send)
        finally:
            self._metrics.ended()


def _template(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "none"


def _log(scope: Scope, status: int, seconds: float) -> None:
    caller = scope.get("state", {}).get("caller")
    access.info(
        "%s %s %s %d %.1f ms",
        caller.name if caller else "-",
        scope["method"],
        path_of(scope),
        status,
        seconds * 1e3,
    )

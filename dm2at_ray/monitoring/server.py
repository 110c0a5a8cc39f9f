"""The HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from dm2at_ray.errors import ConfigError

logger = logging.getLogger(__name__)

PORTS_TRIED = 100
LAST_PORT = 65535
SCRAPER_GONE_SECONDS = 150.0
"""A scraper that has not come for so long is not waited for; Prometheus comes every minute or more often."""


SCRAPE_HEADER = "HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS"
"""Sent by Prometheus and its like, not by a person who looks once."""


class Scrapes:
    """Notes every scrape that was answered in full: a WSGI application around the one that answers."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._last_begun = float("-inf")

    def __call__(self, environment: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        """Answer one request."""
        begun = time.monotonic()
        parts: Iterable[bytes] = self._answer(environment, start_response)
        yield from parts
        if SCRAPE_HEADER not in environment:
            return
        # Only now has the last part been written out.
        with self._changed:
            self._last_begun = max(self._last_begun, begun)
            self._changed.notify_all()

    def wait_for_one(self, seconds: float) -> bool:
        """Wait for a scrape that begins from now on, if anybody scrapes at all.

        Args:
            seconds: The longest wait.

        Returns:
            Whether there was one.
        """
        now = time.monotonic()
        with self._changed:
            if now - self._last_begun > SCRAPER_GONE_SECONDS:
                return False
            return self._changed.wait_for(lambda: self._last_begun >= now, seconds)


@dataclass(frozen=True)
class MetricsServer:
    """A running endpoint; `port` is the one it really listens on."""

    host: str
    port: int
    scrapes: Scrapes
    _server: WSGIServer
    _thread: threading.Thread

    def close(self, last_scrape_seconds: float = 0.0) -> None:
        """Let who scrapes see the last values, then stop answering and free the port.

        Args:
            last_scrape_seconds: The longest wait for one more scrape; none where nobody has scraped lately.
        """
        if last_scrape_seconds:
            self.scrapes.wait_for_one(last_scrape_seconds)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_registry(registry: CollectorRegistry, host: str, port: int) -> MetricsServer:
    """Serve a registry over HTTP from a daemon thread.

    Args:
        registry: What to expose.
        host: Address to listen on, "0.0.0.0" for all.
        port: Port to listen on; 0 takes any free one. A busy port is said in one warning, and the next free
            one of the 100 after it is taken, so that a second run on a machine still has its metrics.

    Raises:
        ConfigError: if the host cannot be listened on, the port is not permitted, or all those are busy.
    """
    last = min(port + PORTS_TRIED, LAST_PORT)
    for candidate in range(port, last + 1):
        try:
            server, thread = start_http_server(candidate, addr=host, registry=registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise ConfigError(
                f"metrics cannot be served on {host}:{candidate} ({error.strerror}): "
                "choose an address of this machine and a port above 1023, or 0 for any free one"
            ) from error
        if candidate != port:
            logger.warning(
                "metrics port %d is busy: metrics are served on port %d instead", port, server.server_port
            )
        scrapes = Scrapes(server.get_app())
        server.set_app(scrapes)
        return MetricsServer(host, server.server_port, scrapes, server, thread)
    raise ConfigError(
        f"metrics ports {port} to {last} are all busy: choose another port, or 0 for any free one"
    )

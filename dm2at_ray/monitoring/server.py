"""The HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

import errno
import logging
import threading
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from dm2at_ray.errors import ConfigError

logger = logging.getLogger(__name__)

PORTS_TRIED = 100
LAST_PORT = 65535


@dataclass(frozen=True)
class MetricsServer:
    """A running endpoint; `port` is the one it really listens on."""

    host: str
    port: int
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop answering and free the port."""
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
        return MetricsServer(host, server.server_port, server, thread)
    raise ConfigError(
        f"metrics ports {port} to {last} are all busy: choose another port, or 0 for any free one"
    )

"""The service as a process: listens, says where, and ends in order."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dm2at_ray.errors import ConfigError
from dm2at_ray.service.answers import PROBLEM_TYPE
from dm2at_ray.service.app import create_app
from dm2at_ray.service.problems import TITLES
from dm2at_ray.service.service import Service
from dm2at_ray.service.settings import ServiceSettings

GRACE_SECONDS = 10
"""Requests at work when the service is told to end may take so long."""
KEEP_ALIVE_SECONDS = 75
LONGEST_HEAD = 65_536
"""Bytes of a request's line and headers."""
_BACKLOG = 1024
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests have short heads (uvicorn sets no bound), and whose refusals are problems."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > LONGEST_HEAD and not self.transport.is_closing():
            self.send_400_response(
                f"the head of the request has more than {LONGEST_HEAD:,} bytes; shorten it"
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and hang up."""
        status, title = TITLES["malformed"]
        body = json.dumps({"type": "/problems/malformed", "title": title, "status": status, "detail": msg})
        head = (
            f"HTTP/1.1 {status} Bad Request\r\ncontent-type: {PROBLEM_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()


class Server(uvicorn.Server):
    """Says where it listens, ends event streams when it is told to end, and ends without an error then.

    Args:
        config: uvicorn's.
        service: Whose streams are ended.
        listening: Called once requests are answered.
    """

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is at work."""
        self._service.events.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End on SIGINT and SIGTERM; that is how a service ends, so it is no error."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: ServiceSettings, say: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM comes.

    Args:
        settings: Of the service.
        say: Takes the line that tells the URL, once it listens.

    Raises:
        ConfigError: The address cannot be listened on.
        UserError: The tokens cannot be read, or the root of the runs cannot be opened.
    """
    listener = _listen(settings.host, settings.port)
    with listener:
        app: FastAPI = create_app(settings)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=BoundedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        url = _url(settings.host, listener.getsockname()[1])
        Server(config, app.state.service, lambda: say(f"serving {settings.runs} on {url}")).run([listener])


def log_to_stderr() -> None:
    """Log what is worth a word, and the requests if they are logged at all."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("dm2at_ray").setLevel(logging.INFO)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise ConfigError(
            f"--host {host} --port {port}: {reason}; choose an address of this machine and a "
            "free port, or 0 for any"
        ) from None


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""What every request has to keep to, and what every answer says to browsers."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dm2at_ray.service.answers import problem
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.settings import is_loopback

CSP = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that does not say otherwise."""


class SecurityHeaders:
    """Adds what keeps browsers from guessing, framing, telling on and keeping: a layer around an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Problems:
    """Answers with a problem where nothing else took an exception: a layer around an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:
            if scope["type"] != "http" or begun:
                # The connection is cut, which tells the client that there should be more.
                raise
            await problem(scope, error)(scope, receive, send)


class BodyLimit:
    """Refuses long requests, by what they say and by what they send: a layer around an app.

    Args:
        app: The application.
        most: Bytes of the longest request.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > self._most):
            raise self._too_large()
        taken = 0

        async def counted_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise self._too_large()
            return message

        await self._app(scope, counted_receive, send)

    def _too_large(self) -> HTTPException:
        # FastAPI lets only this pass while it reads a body.
        return HTTPException(413, f"the request has more than {self._most:,} bytes; send it in several parts")


class PlainPaths:
    """Takes no path with a slash or a backslash hidden in one of its parts: a layer around an app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        raw = scope.get("raw_path", b"").lower()
        if b"%2f" in raw or b"%5c" in raw:
            raise HTTPException(404)
        await self._app(scope, receive, send)


class OwnHostOnly:
    """Keeps other pages' scripts out where no token does: a layer around an app.

    A page of another site can make a browser on this machine ask the service, under that site's own name
    (DNS rebinding) or as a request across sites; only what comes from this machine's own pages and programs
    passes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            if not is_loopback(_name(host)):
                raise ProblemError(
                    "foreign",
                    "without tokens the service answers to localhost and 127.0.0.1 only; ask it by that name",
                )
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                raise ProblemError(
                    "foreign", "another site's page may not ask this service; use its own page"
                )
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """A Host header without its port.

    Examples:
        >>> _name("localhost:8700"), _name("[::1]:8700"), _name("127.0.0.1")
        ('localhost', '::1', '127.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]

"""Requests to the service: with the token, within a time, again where that does no harm."""

from __future__ import annotations

import ipaddress
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from dm2at_ray.client.errors import NO_CONNECTION, NOT_A_SERVICE, ServiceError

API = "/api/v1"
T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_PASSING = (502, 503, 504)
_FOR_GOOD = ("no-cluster",)
"""Kinds of problems that asking again does not mend, whatever their status."""
_PART_BYTES = 1 << 18
_PROBLEM_PARTS = 8


class Transport:
    """Sends requests to one service; for any number of threads.

    A request that gets no answer, or one that says "not now", is sent again after a while: every request of
    this API may be. No redirect is followed, so the token goes to no other place than the URL's.

    Args:
        url: Where the service is: http or https, host, port, and the path under which a proxy has it.
        token: Sent with every request; None for a service that asks for none.
        timeout: Seconds in which an answer has to begin, and in which each next part of it has to come.
        patience: Seconds over which a request is tried again.

    Raises:
        ServiceError: `not-a-service`: it is no such URL; `unauthenticated`: that is no token.
    """

    def __init__(self, url: str, token: str | None, timeout: float, patience: float) -> None:
        self.url = checked_url(url)
        self._auth = _Token(token)
        self._timeout = timeout
        self._patience = patience
        self._local = threading.local()
        self._is_here = _is_loopback(urlsplit(self.url).hostname or "")

    def get(self, path: str, **parameters: Any) -> bytes:
        """The body of an answer; parameters that are None are left out."""
        return self._again(lambda: self._body(self._send("GET", path, parameters)))

    def post(self, path: str, body: str | None = None) -> bytes:
        """The body of an answer to a JSON body."""
        return self._again(lambda: self._body(self._send("POST", path, body=body)))

    @contextmanager
    def stream(self, path: str, timeout: float | None = None) -> Iterator[requests.Response]:
        """An answer whose body is read by the caller.

        Args:
            path: Below the service's URL.
            timeout: In place of the transport's own.

        Raises:
            ServiceError: The service refuses, nobody answers, or something else does.
        """
        with self._again(lambda: self._send("GET", path, timeout=timeout)) as response:
            yield response

    def parts(self, response: requests.Response, size: int | None = _PART_BYTES) -> Iterator[bytes]:
        """The body of an answer in parts of a size; None: as they come.

        Raises:
            ServiceError: `no-connection`: it ends before all of it is there.
        """
        there = 0
        try:
            for part in response.iter_content(size):
                there += len(part)
                yield part
        except requests.RequestException as error:
            raise self.lost(error) from error
        told = response.headers.get("Content-Length", "")
        # Not every version of urllib3 looks.
        if told.isdecimal() and there < int(told) and "Content-Encoding" not in response.headers:
            raise self.lost(ConnectionError(f"the answer ended after {there:,} of {int(told):,} bytes"))

    def lost(self, error: Exception) -> ServiceError:
        """What to raise where a connection breaks."""
        reason = "no answer in time" if isinstance(error, requests.Timeout) else _reason(error)
        return ServiceError(
            NO_CONNECTION,
            0,
            f"{self.url}: {reason}; see that `dm2at serve` runs there and can be reached from here",
        )

    def _again(self, attempt: Callable[[], T]) -> T:
        """What an attempt gives, repeated while it fails for the moment and there is patience left."""
        end = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except ServiceError as error:
                passing = error.status in (0, *_PASSING) and error.kind not in _FOR_GOOD
                wait = max(error.more.get("retry_after", 0.0), pause * random.uniform(0.5, 1.5))
                if not passing or time.monotonic() + wait > end:
                    raise
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _body(self, response: requests.Response) -> bytes:
        with response:
            return b"".join(self.parts(response))

    def _send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        body: str | None = None,
        timeout: float | None = None,
    ) -> requests.Response:
        chosen = {name: value for name, value in (parameters or {}).items() if value is not None}
        try:
            response = self._session().request(
                method,
                self.url + path,
                params=chosen,
                data=None if body is None else body.encode(),
                headers={} if body is None else {"Content-Type": "application/json"},
                auth=self._auth,
                timeout=timeout or self._timeout,
                stream=True,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self.lost(error) from error
        if response.status_code < 300:
            return response
        with response:
            raise self._refusal(response)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # A proxy of the environment has no way to this machine's own addresses.
            session.trust_env = not self._is_here
        return session

    def _refusal(self, response: requests.Response) -> ServiceError:
        status = response.status_code
        if status < 400:
            place = response.headers.get("Location", "another place")[:300]
            return ServiceError(
                NOT_A_SERVICE, status, f"{self.url} redirects to {place}; give the URL of the service itself"
            )
        try:
            found = json.loads(b"".join(islice(self.parts(response), _PROBLEM_PARTS)))
            kind, detail = str(found["type"]).rpartition("/")[2], str(found["detail"])
            known = {"type", "title", "status", "detail", "instance"}
            more = {str(name): value for name, value in found.items() if name not in known}
        except (ValueError, KeyError, TypeError, ServiceError):
            # So speaks a proxy whose service is about to come back.
            kind, more = NO_CONNECTION if status in _PASSING else NOT_A_SERVICE, {}
            detail = f"{self.url}: status {status} {response.reason}, and no word of this service"
        if status == 401 and not self._auth.has_token:
            detail = f"{self.url} asks for a token; set DM2AT_TOKEN, or give it to Client"
        pause = response.headers.get("Retry-After", "")
        if pause.isdecimal():
            more["retry_after"] = float(pause)
        return ServiceError(kind, status, detail, **more)


class _Token(requests.auth.AuthBase):
    """Sends the token. Given also where there is none, as `.netrc` would be asked for one else."""

    def __init__(self, token: str | None) -> None:
        # Whatever else is in it, the error about it would show it.
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise ServiceError(
                "unauthenticated", 0, "the token has characters that no token has; copy it anew"
            )
        self._token = token

    @property
    def has_token(self) -> bool:
        """Whether there is one."""
        return self._token is not None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "<token>" if self.has_token else "<no token>"


def checked_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ServiceError: `not-a-service`: it is none, or has more in it than a place.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.query + parts.fragment
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise ServiceError(NOT_A_SERVICE, 0, f"{url!r}: no URL of a service; give one like http://host:8700")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}"
        raise ServiceError(
            NOT_A_SERVICE, 0, f"{shown}: a secret in a URL ends up in logs; give a token by DM2AT_TOKEN"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: BaseException) -> str:
    """The innermost cause, as its own words are the shortest."""
    while error.__cause__ is not None or error.__context__ is not None:
        inner = error.__cause__ or error.__context__
        assert inner is not None
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__

"""Ray's job API at one address: with time limits, and with its failures told apart."""

from __future__ import annotations

import logging
import os
from typing import Any, NoReturn
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from dm2at_ray.errors import RunError

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0


class UnreachableError(Exception):
    """Nobody answers, or what answers cannot just now: worth another try."""


class RefusedError(Exception):
    """The job API answered with an error of its own.

    Args:
        code: HTTP status.
        text: The answer, in the end of which a traceback says why.
    """

    def __init__(self, code: int, text: str) -> None:
        lines = [line for line in text.splitlines() if len(line) > 2]
        super().__init__(f"HTTP {code}: {lines[-1] if lines else 'without a word'}")
        self.code = code
        self.text = text


class JobClient(JobSubmissionClient):
    """Ray's client, which by itself waits for ever for an answer and knows one kind of failure.

    Args:
        address: http(s) URL of the cluster's dashboard.
        connect_seconds: How long a connection may take to come about.
        answer_seconds: How long an answer may be silent.

    Raises:
        RunError: The address is wrong, nobody answers there, it is no Ray dashboard, or the token is refused.
    """

    def __init__(
        self,
        address: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        check_address(address)
        self._limits = (connect_seconds, answer_seconds)
        # Its loggers tell every package on stderr.
        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)
        # Ray prefers these variables to its argument, and RAY_ADDRESS may name another cluster.
        os.environ[ADDRESS_VARIABLE] = address
        try:
            super().__init__(address)
        except (UnreachableError, ConnectionError) as error:
            raise RunError(
                f"--address {address}: nobody answers ({error}); give the URL of a running Ray cluster's "
                "dashboard, e.g. http://head:8265"
            ) from None
        except (RuntimeError, ValueError, KeyError, requests.RequestException) as error:
            raise RunError(
                f"--address {address}: what answers is no Ray dashboard ({_one_line(error)}); give its URL, "
                "e.g. http://head:8265"
            ) from None
        self._check_version(address)

    def _check_version(self, address: str) -> None:
        there, here = str(self._server_ray_version), str(ray.__version__)
        if there.split(".")[:2] != here.split(".")[:2]:
            raise RunError(
                f"--address {address}: the cluster runs Ray {there}, this is made for "
                f"{'.'.join(here.split('.')[:2])}; start it with an image of that version"
            )

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        """Every request goes through here (Ray 2.60)."""
        try:
            response = super()._do_request(method, endpoint, timeout=self._limits, **kwargs)
        except AuthenticationError as error:
            raise RunError(_refused_token(self._address, str(error))) from None
        except requests.exceptions.InvalidURL as error:
            raise RunError(
                f"--address {self._address}: {error}; give a URL such as http://head:8265"
            ) from None
        except requests.RequestException as error:
            raise UnreachableError(_reason(error)) from None
        if response.status_code in (502, 503, 504):
            raise UnreachableError(f"HTTP {response.status_code}")
        return response

    def _raise_error(self, r: requests.Response) -> NoReturn:
        raise RefusedError(r.status_code, r.text)


def check_address(address: str) -> None:
    """Insist on a dashboard's URL.

    Raises:
        RunError: It is none, or has a password in it, which would show in logs and process lists.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RunError(f"--address {address}: not a dashboard's URL; write one such as http://head:8265")
    if parts.username or parts.password:
        raise RunError(
            f"--address {parts.scheme}://…@{parts.hostname}: has a password in it; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN instead"
        )


def _refused_token(address: str, error: str) -> str:
    if "Missing" in error or "required" in error:
        return (
            f"--address {address}: the cluster wants a token; set RAY_AUTH_MODE=token, and the token by "
            "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or the file ~/.ray/auth_token"
        )
    return (
        f"--address {address}: the token is refused; set RAY_AUTH_TOKEN, or the file that "
        "RAY_AUTH_TOKEN_PATH names, to the cluster's own"
    )


def _reason(error: requests.RequestException) -> str:
    """The few words at the end of what requests says at length."""
    inner = getattr(error.args[0] if error.args else None, "reason", None) or error
    words = str(inner).rsplit(": ", 1)[-1].strip("()'\" ")
    return words or type(error).__name__


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

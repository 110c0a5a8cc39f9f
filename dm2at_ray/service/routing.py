"""How routes are told: each with the role that it needs and the problems that it may answer with."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from dm2at_ray.client.schemas import Message, Role
from dm2at_ray.service.answers import PROBLEM_TYPE
from dm2at_ray.service.auth import Caller
from dm2at_ray.service.problems import TITLES, ProblemError
from dm2at_ray.service.service import Service

API = "/api/v1"
ROLE_KEY = "x-role"
"""Where a route's OpenAPI says which role it needs; no key: anybody may."""
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_TYPES = {"application/json": "object", "text/yaml": "object"}
"""What stands in such an answer, where it is more than text."""
_EVERYWHERE = ("defect",)
_WITH_A_TOKEN = ("unauthenticated", "forbidden", "foreign", "unreachable")
_WITH_INPUT = ("bad-request",)
_WITH_A_BODY = ("too-large", "wrong-type")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _arrived(request: Request) -> float:
    arrived: float = request.state.arrived
    return arrived


TheService = Annotated[Service, Depends(_service)]
TheCaller = Annotated[Caller, Depends(_caller)]
TheArrival = Annotated[float, Depends(_arrived)]
"""When the request came, by `time.monotonic`."""


class GuardedRoute(APIRoute):
    """Asks for the role before anything of the request is looked at, its body included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()
        role: Role | None = (self.openapi_extra or {}).get(ROLE_KEY)
        if role is None:
            return handle

        async def guarded(request: Request) -> Response:
            request.state.arrived = time.monotonic()
            request.state.caller = await request.app.state.service.auth.admit(request, role)
            _require_json(request)
            return await handle(request)

        return guarded


def _require_json(request: Request) -> None:
    """Insist that a body is JSON, which no page of another site can send unasked.

    Raises:
        ProblemError: `wrong-type`.
    """
    if request.method not in ("POST", "PUT", "PATCH"):
        return
    headers = request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given == "application/json" or (not given and not has_body):
        return
    raise ProblemError(
        "wrong-type", "send the body as JSON, with the header `Content-Type: application/json`"
    )


@dataclass(frozen=True)
class _Told:
    path: str
    endpoint: Callable[..., Any]
    method: str
    options: dict[str, Any]


class Routes:
    """Routes of one subject.

    Args:
        tag: The subject.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._told: list[_Told] = []

    def get(self, path: str, role: Role | None, **more: Any) -> Callable[[Callable[..., Any]], Any]:
        """A route for GET; see `route`."""
        return self.route("GET", path, role, **more)

    def post(self, path: str, role: Role | None, **more: Any) -> Callable[[Callable[..., Any]], Any]:
        """A route for POST; see `route`."""
        return self.route("POST", path, role, **more)

    def route(
        self,
        method: str,
        path: str,
        role: Role | None,
        *,
        gives: type[Message] | str | None,
        problems: Sequence[str] = (),
        status: int = 200,
        also: Mapping[int, str] | None = None,
    ) -> Callable[[Callable[..., Any]], Any]:
        """Tell of a route; its function's docstring is what the API says of it.

        Args:
            method: HTTP method.
            path: Its template.
            role: The role that it needs; None where anybody may.
            gives: The message of success; a media type where it is none; None where there is no content.
            problems: Kinds of problems, besides those that any route of its sort has.
            status: The status code of success.
            also: Further status codes, told without a type of their own: what each means.
        """

        def add(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            words = (endpoint.__doc__ or "").strip()
            has_input = "{" in path or bool(
                set(endpoint.__annotations__) - {"service", "caller", "arrived", "return"}
            )
            kinds = [*_EVERYWHERE, *problems]
            kinds += _WITH_A_TOKEN if role else ()
            kinds += _WITH_INPUT if has_input else ()
            kinds += _WITH_A_BODY if method == "POST" else ()
            options: dict[str, Any] = {
                "summary": words.split("\n")[0].rstrip("."),
                "description": words,
                "tags": [self._tag],
                "operation_id": endpoint.__name__,
                "status_code": status,
                "responses": {**_successes(gives, status, also or {}), **_problems(kinds)},
                "openapi_extra": {ROLE_KEY: role, "security": [{"token": []}]} if role else None,
                "response_class": Response,
                "response_model": None,
            }
            self._told.append(_Told(path, endpoint, method, options))
            return endpoint

        return add

    def add_to(self, app: FastAPI) -> None:
        """Give an application these routes."""
        for told in self._told:
            app.router.add_api_route(
                told.path,
                told.endpoint,
                methods=[told.method],
                route_class_override=GuardedRoute,
                **told.options,
            )


def _problems(kinds: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    by_status: dict[int | str, dict[str, Any]] = {}
    for status in sorted({TITLES[kind][0] for kind in kinds}):
        of_status = sorted({kind for kind in kinds if TITLES[kind][0] == status})
        by_status[status] = {
            "description": "; ".join(f"`{kind}`: {TITLES[kind][1]}" for kind in of_status),
            "content": {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}},
        }
        if status == 401:
            by_status[status]["headers"] = {
                "WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer"}
            }
    return by_status


def _successes(
    gives: type[Message] | str | None, status: int, also: Mapping[int, str]
) -> dict[int | str, dict[str, Any]]:
    if gives is None:
        content: dict[str, Any] = {}
        words = "Done."
    elif isinstance(gives, str):
        content = {"content": {gives: {"schema": {"type": _TYPES.get(gives, "string")}}}}
        words = "As it is."
    else:
        content = {"model": gives}
        words = (gives.__doc__ or "").split("\n")[0]
    told: dict[int | str, dict[str, Any]] = {status: {"description": words, **content}}
    for code, meaning in also.items():
        told[code] = {"description": meaning, **(content if code < 300 else {})}
    return told

"""The application: routes, and the layers around them."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from dm2at_ray import __version__
from dm2at_ray.client.schemas import Problem
from dm2at_ray.errors import UserError
from dm2at_ray.service import routes
from dm2at_ray.service.answers import problem
from dm2at_ray.service.docs import docs_page
from dm2at_ray.service.limits import BodyLimit, OwnHostOnly, PlainPaths, Problems, SecurityHeaders
from dm2at_ray.service.metrics import Measured
from dm2at_ray.service.routes.page import FRESH, PAGE
from dm2at_ray.service.service import Service, make_service
from dm2at_ray.service.settings import ServiceSettings

TITLE = "dm2at-ray"
DESCRIPTION = (
    "Runs of robust active learning, their queries and their labels.\n\n"
    "Every error is an RFC 9457 problem (application/problem+json). Where the service asks for tokens, send "
    "`Authorization: Bearer TOKEN`; `x-role` tells which role a request needs: read, label or operate, each "
    "of which may do what those before it may."
)


def create_app(settings: ServiceSettings) -> FastAPI:
    """The service as an ASGI application; its parts begin to work with its lifespan.

    Raises:
        UserError: The tokens cannot be read, or the root of the runs cannot be opened.
    """
    service = make_service(settings)
    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_layers(service),
        lifespan=_lifespan,
        exception_handlers={
            HTTPException: _answer_http,
            RequestValidationError: _answer,
            UserError: _answer,
        },
    )
    app.state.service = service
    for subject in routes.ALL:
        subject.add_to(app)
    app.mount("/static", _Static(directory=PAGE, check_dir=False))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    # Both take a while to make, and never change.
    app.state.openapi = json.dumps(app.openapi()).encode()
    app.state.docs = docs_page(app.openapi()).encode()
    return app


def _layers(service: Service) -> list[Middleware]:
    """From the outermost to the innermost."""
    settings = service.settings
    layers = [
        Middleware(Measured, metrics=service.metrics, log=settings.access_log),
        Middleware(SecurityHeaders),
        Middleware(Problems),
    ]
    if not service.auth.is_on:
        layers.append(Middleware(OwnHostOnly))
    return [*layers, Middleware(PlainPaths), Middleware(BodyLimit, most=settings.max_body_bytes)]


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    anyio.to_thread.current_default_thread_limiter().total_tokens = service.settings.requests_at_once
    try:
        await anyio.to_thread.run_sync(service.start)
        # What is loaded by now stays: to look through it for garbage again and again would stop all requests
        # for tenths of a second.
        gc.collect()
        gc.freeze()
        yield
    finally:
        service.events.close()
        await anyio.to_thread.run_sync(service.close)


async def _answer(request: Request, error: Exception) -> Response:
    return problem(request.scope, error)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # The router names the methods of one route, a path may have several.
        error.headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return problem(request.scope, error)


def _methods(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(dict(request.scope))[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or {"GET", "HEAD"}
    return found


class _Static(StaticFiles):
    """The page's files; browsers ask for them again each time, by what they have."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The answer with a file, or that the browser has it."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH)
        return response


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = found.setdefault("components", {})
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "Made by `dm2at token new`."}
        }
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema(mode="serialization")
        # FastAPI's own shape of errors, which nothing here answers with.
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema

"""The service itself: who asks it, whether it lives, its metrics and its description."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from dm2at_ray import __version__
from dm2at_ray.client.schemas import Me
from dm2at_ray.service.answers import told
from dm2at_ray.service.routing import API, Routes, TheCaller, TheService

routes = Routes("service")


@routes.get(f"{API}/me", "read", gives=Me)
async def who_am_i(service: TheService, caller: TheCaller) -> Response:
    """Who asks, and what they may do."""
    can_start = service.settings.address is not None
    return told(Me(name=caller.name, role=caller.role, version=__version__, can_start_runs=can_start))


@routes.get("/metrics", "read", gives="text/plain")
def metrics(service: TheService) -> Response:
    """What the service tells Prometheus of itself."""
    return Response(service.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@routes.get("/healthz", None, gives="text/plain")
async def healthz() -> Response:
    """Whether the service answers."""
    return Response("ok\n", media_type="text/plain")


@routes.get(f"{API}/openapi.json", None, gives="application/json")
async def openapi(request: Request) -> Response:
    """This description of the API."""
    return Response(request.app.state.openapi, media_type="application/json")

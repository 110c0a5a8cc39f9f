"""The page to label on, and the page that tells the API."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

import dm2at_ray.service
from dm2at_ray.service.docs import DOCS_CSP
from dm2at_ray.service.routing import Routes

routes = Routes("pages")

PAGE = Path(dm2at_ray.service.__file__).parent / "page"
FRESH = {"Cache-Control": "no-cache"}
"""Kept by browsers, and asked for again each time by its ETag."""


@routes.get("/", None, gives="text/html")
async def label_page() -> Response:
    """The page to label on."""
    return FileResponse(PAGE / "index.html", headers=FRESH)


@routes.get("/docs", None, gives="text/html")
async def docs(request: Request) -> Response:
    """This API in words, on a page that loads nothing else."""
    headers = {"Content-Security-Policy": DOCS_CSP, **FRESH}
    return Response(request.app.state.docs, headers=headers, media_type="text/html")

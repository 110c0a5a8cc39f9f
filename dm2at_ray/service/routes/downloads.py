"""Models and reports to take away."""

from __future__ import annotations

import json

from starlette.responses import Response, StreamingResponse

from dm2at_ray.service.conditional import UNCHANGED, Known, has_it, unless_known
from dm2at_ray.service.downloads import model_spec as spec_of_model
from dm2at_ray.service.downloads import open_model
from dm2at_ray.service.parameters import RoundInPath, RunInPath
from dm2at_ray.service.routing import API, Routes, TheService

routes = Routes("downloads")

_PROBLEMS = ("unknown-run", "unknown-round", "not-there", "outside-roots")
_AGAIN = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
"""Kept by browsers, and asked for again each time by its ETag."""
REPORT_CSP = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The report is one page with its pictures in it; it may do nothing."""


@routes.get(
    f"{API}/runs/{{run}}/rounds/{{round}}/model",
    "read",
    gives="application/octet-stream",
    also=UNCHANGED,
    problems=_PROBLEMS,
)
def download_model(
    service: TheService, run: RunInPath, round_index: RoundInPath, known: Known = None
) -> Response:
    """The weights of a committed round's model, as a safetensors file."""
    found = open_model(service.runs.directory(run), round_index)
    headers = {"ETag": found.etag, **_AGAIN}
    if has_it(known, found.etag):
        found.stream.close()
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{found.name}"'
    headers["Content-Length"] = str(found.size)
    return StreamingResponse(found.chunks(), headers=headers, media_type="application/octet-stream")


@routes.get(
    f"{API}/runs/{{run}}/rounds/{{round}}/model/spec", "read", gives="application/json", problems=_PROBLEMS
)
def model_spec(service: TheService, run: RunInPath, round_index: RoundInPath) -> Response:
    """How to build the model that the weights belong to."""
    spec = spec_of_model(service.runs.directory(run), round_index)
    return Response(json.dumps(spec), media_type="application/json")


@routes.get(
    f"{API}/runs/{{run}}/report",
    "read",
    gives="text/html",
    also=UNCHANGED,
    problems=("unknown-run", "not-there", "outside-roots", "unreadable-image", "wrong-state", "bad-config"),
)
def run_report(service: TheService, run: RunInPath, known: Known = None) -> Response:
    """The run's report: one HTML page with curves, costs and pictures in it."""
    found = service.reports.report(service.runs.directory(run))
    return unless_known(found, known, {**_AGAIN, "Content-Security-Policy": REPORT_CSP})

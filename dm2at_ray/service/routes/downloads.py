"""Models and reports to take away."""

from __future__ import annotations

import json

from starlette.responses import Response, StreamingResponse

from dm2at_ray.service import downloads
from dm2at_ray.service.parameters import RoundInPath, RunInPath
from dm2at_ray.service.routing import API, Routes, TheService

routes = Routes("downloads")

_PROBLEMS = ("unknown-run", "unknown-round", "not-there")
REPORT_CSP = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The report is one page with its pictures in it; it may do nothing."""


@routes.get(
    f"{API}/runs/{{run}}/rounds/{{round}}/model", "read", gives="application/octet-stream", problems=_PROBLEMS
)
def download_model(service: TheService, run: RunInPath, round_index: RoundInPath) -> Response:
    """The weights of a committed round's model, as a safetensors file."""
    found = downloads.model(service.runs.directory(run), round_index)
    name = f"{run}-round-{round_index:04d}.safetensors"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(found.size)}
    return StreamingResponse(found.chunks, headers=headers, media_type="application/octet-stream")


@routes.get(
    f"{API}/runs/{{run}}/rounds/{{round}}/model/spec", "read", gives="application/json", problems=_PROBLEMS
)
def model_spec(service: TheService, run: RunInPath, round_index: RoundInPath) -> Response:
    """How to build the model that the weights belong to."""
    found = downloads.model_spec(service.runs.directory(run), round_index)
    return Response(json.dumps(found), media_type="application/json")


@routes.get(
    f"{API}/runs/{{run}}/report",
    "read",
    gives="text/html",
    problems=("unknown-run", "not-there", "outside-roots", "unreadable-image", "wrong-state", "bad-config"),
)
def run_report(service: TheService, run: RunInPath) -> Response:
    """The run's report: one HTML page with curves, costs and pictures in it."""
    found = downloads.report(service.runs.directory(run))
    return Response(found, headers={"Content-Security-Policy": REPORT_CSP}, media_type="text/html")

"""Runs: which there are, where they stand, and their start, pause and stop."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dm2at_ray.client.schemas import RoundPage, RunPage, RunRequest, RunStatus
from dm2at_ray.service.answers import told
from dm2at_ray.service.events import EventStream
from dm2at_ray.service.parameters import RoundsAfter, RunInPath, RunsAfter, RunsLimit
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.routing import API, Routes, TheCaller, TheService

routes = Routes("runs")

_NOT_THERE = ("unknown-run",)
_CONTROL = ("unknown-run", "wrong-state", "no-cluster")


@routes.get(f"{API}/runs", "read", gives=RunPage)
def list_runs(service: TheService, after: RunsAfter = None, limit: RunsLimit = 50) -> Response:
    """Some of the runs, by name."""
    names, following = service.runs.page(after, limit)
    return told(RunPage(runs=service.runs.summaries(names), next=following))


@routes.post(
    f"{API}/runs",
    "operate",
    gives=RunStatus,
    status=201,
    also={200: "The run was there already, begun from the same config."},
    problems=("bad-config", "outside-roots", "other-config", "wrong-state", "no-cluster"),
)
def start_run(service: TheService, caller: TheCaller, wanted: RunRequest) -> Response:
    """Start a run.

    The same name and config again changes nothing; another config under the name is refused.
    """
    created = service.control.start(wanted, caller.name)
    return told(service.run_status(wanted.name), 201 if created else 200)


@routes.get(f"{API}/runs/{{run}}", "read", gives=RunStatus, problems=_NOT_THERE)
def run_status(service: TheService, run: RunInPath) -> Response:
    """Where a run is."""
    return told(service.run_status(run))


@routes.get(f"{API}/runs/{{run}}/events", "read", gives="text/event-stream", problems=("unknown-run", "busy"))
async def run_events(service: TheService, request: Request, run: RunInPath) -> Response:
    """Where a run is, at once and whenever that changes.

    Server-sent events named `status`, whose data is the JSON of RunStatus; a comment where it is silent long.
    """

    async def still_allowed() -> bool:
        try:
            await service.auth.admit(request, "read")
        except ProblemError:
            return False
        return True

    return EventStream(await service.events.subscribe(run), still_allowed)


@routes.post(f"{API}/runs/{{run}}/pause", "operate", gives=RunStatus, problems=_CONTROL)
def pause_run(service: TheService, caller: TheCaller, run: RunInPath) -> Response:
    """Stop a run's work until it is resumed.

    Labels are still taken; nothing starts by itself.
    """
    service.control.pause(run, caller.name)
    return told(service.run_status(run))


@routes.post(f"{API}/runs/{{run}}/resume", "operate", gives=RunStatus, problems=_CONTROL)
def resume_run(service: TheService, caller: TheCaller, run: RunInPath) -> Response:
    """Let a run go on from where it is."""
    service.control.resume(run, caller.name)
    return told(service.run_status(run))


@routes.post(f"{API}/runs/{{run}}/stop", "operate", gives=RunStatus, problems=_CONTROL)
def stop_run(service: TheService, caller: TheCaller, run: RunInPath) -> Response:
    """End a run's work: no queries are given out any more."""
    service.control.stop(run, caller.name)
    return told(service.run_status(run))


@routes.get(f"{API}/runs/{{run}}/config", "read", gives="text/yaml", problems=("unknown-run", "not-there"))
def run_config(service: TheService, run: RunInPath) -> Response:
    """The config that a run was begun with, as YAML."""
    return Response(service.runs.config_yaml(run), media_type="text/yaml")


@routes.get(f"{API}/runs/{{run}}/rounds", "read", gives=RoundPage, problems=_NOT_THERE)
def list_rounds(
    service: TheService, run: RunInPath, after: RoundsAfter = None, limit: RunsLimit = 50
) -> Response:
    """Some of a run's committed rounds, in order, with what was measured."""
    return told(service.runs.rounds(run, after, limit))

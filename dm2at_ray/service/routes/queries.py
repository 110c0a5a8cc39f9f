"""Queries: what a round asks, who has it before them, and when the labels suffice."""

from __future__ import annotations

from starlette.responses import Response

from dm2at_ray.client.schemas import Lease, LeaseRequest, Query, QueryPage, ReleaseRequest, Round
from dm2at_ray.service.answers import told
from dm2at_ray.service.parameters import After, Limit, QueryState, RoundInPath, RunInPath, SampleInPath
from dm2at_ray.service.routing import API, Routes, TheCaller, TheService

routes = Routes("queries")


@routes.get(
    f"{API}/runs/{{run}}/rounds/{{round}}/queries",
    "read",
    gives=QueryPage,
    problems=("unknown-run", "unknown-round"),
)
def list_queries(
    service: TheService,
    run: RunInPath,
    round_index: RoundInPath,
    state: QueryState = "all",
    after: After = None,
    limit: Limit = 100,
) -> Response:
    """Some of a round's queries, best first."""
    with service.desks.at(service.runs.directory(run)) as desk:
        return told(desk.queries(round_index, state, after, limit))


@routes.post(
    f"{API}/runs/{{run}}/rounds/{{round}}/accept",
    "operate",
    gives=Round,
    problems=("unknown-run", "unknown-round", "not-awaiting", "wrong-state"),
)
def accept_round(
    service: TheService, caller: TheCaller, run: RunInPath, round_index: RoundInPath
) -> Response:
    """Say that the labels that are there suffice for the round."""
    with service.desks.at(service.runs.directory(run)) as desk:
        accepted = desk.accept_partial(round_index, caller.name)
    service.control.labels_changed(run)
    return told(accepted)


@routes.get(
    f"{API}/runs/{{run}}/samples/{{sample_id}}",
    "read",
    gives=Query,
    problems=("unknown-run", "unknown-sample"),
)
def show_query(service: TheService, run: RunInPath, sample_id: SampleInPath) -> Response:
    """A sample that some round asked for."""
    with service.desks.at(service.runs.directory(run)) as desk:
        return told(desk.query(sample_id))


@routes.post(f"{API}/runs/{{run}}/leases", "label", gives=Lease, problems=("unknown-run",))
def lease_queries(service: TheService, caller: TheCaller, run: RunInPath, wish: LeaseRequest) -> Response:
    """Open queries that nobody else is given meanwhile: first those that the session has, then the best.

    None of a run that was stopped.
    """
    directory = service.runs.directory(run)
    intent = service.runs.intent(run)
    if intent is not None and intent.wanted == "stopped":
        return told(Lease(round=None, queries=[], mine=0, retry_seconds=None))
    with service.desks.at(directory) as desk:
        return told(desk.claim(caller.name, wish.session, wish.count))


@routes.post(f"{API}/runs/{{run}}/leases/release", "label", gives=None, status=204, problems=("unknown-run",))
def release_queries(service: TheService, caller: TheCaller, run: RunInPath, wish: ReleaseRequest) -> Response:
    """Give queries back before their time."""
    with service.desks.at(service.runs.directory(run)) as desk:
        desk.release(caller.name, wish.session, wish.sample_ids)
    return Response(status_code=204)

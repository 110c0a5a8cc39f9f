"""Labels: taking them, and telling what was said."""

from __future__ import annotations

from starlette.responses import Response

from dm2at_ray.client.schemas import AnswersReport, AnswersRequest, DisagreementPage, LabelsStatus, SaidPage
from dm2at_ray.service.answers import told
from dm2at_ray.service.parameters import After, Limit, RunInPath, SampleWanted
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.routing import API, Routes, TheArrival, TheCaller, TheService
from dm2at_ray.service.standing import has_enough

routes = Routes("labels")

_NOT_THERE = ("unknown-run",)


@routes.post(
    f"{API}/runs/{{run}}/labels",
    "label",
    gives=AnswersReport,
    problems=("unknown-run", "refused-labels", "busy"),
)
def post_labels(
    service: TheService, caller: TheCaller, arrived: TheArrival, run: RunInPath, given: AnswersRequest
) -> Response:
    """Take labels, corrections and "cannot tell".

    What it reports is on disk. An answer that repeats what counts changes nothing, so that any request may be
    sent again. One that has waited for more than ten seconds is refused as `busy` and not taken later on.
    """
    if given.add_classes and not caller.may("operate"):
        raise ProblemError(
            "forbidden",
            f"add_classes: new classes are an operator's to add, {caller.name} has the role {caller.role}",
        )
    with service.desks.at(service.runs.directory(run)) as desk:
        if given.check:
            return told(desk.check(caller.name, given.answers, add_classes=given.add_classes))
        report = desk.answer(
            caller.name,
            given.answers,
            session=given.session,
            keep_good=given.keep_good,
            add_classes=given.add_classes,
            arrived=arrived,
        )
    service.metrics.answered(report.outcomes)
    if has_enough(report.round):
        service.control.labels_changed(run)
    return told(report)


@routes.get(f"{API}/runs/{{run}}/labels", "read", gives=LabelsStatus, problems=_NOT_THERE)
def labels_status(service: TheService, run: RunInPath) -> Response:
    """What was asked and said so far, in numbers."""
    with service.desks.at(service.runs.directory(run)) as desk:
        return told(desk.status())


@routes.get(f"{API}/runs/{{run}}/labels/said", "read", gives=SaidPage, problems=_NOT_THERE)
def list_said(
    service: TheService,
    run: RunInPath,
    sample_id: SampleWanted = None,
    after: After = None,
    limit: Limit = 100,
) -> Response:
    """Some of the words that people said, oldest first."""
    with service.desks.at(service.runs.directory(run)) as desk:
        return told(desk.said(sample_id, after, limit))


@routes.get(
    f"{API}/runs/{{run}}/labels/disagreements", "operate", gives=DisagreementPage, problems=_NOT_THERE
)
def list_disagreements(
    service: TheService, run: RunInPath, after: After = None, limit: Limit = 100
) -> Response:
    """Some of the samples of which people said different things, by id."""
    with service.desks.at(service.runs.directory(run)) as desk:
        return told(desk.disagreements(after, limit))

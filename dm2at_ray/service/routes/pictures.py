"""Pictures of samples and their adversarial twins."""

from __future__ import annotations

from starlette.responses import Response

from dm2at_ray.service.conditional import UNCHANGED, Known, unless_known
from dm2at_ray.service.parameters import RunInPath, SampleInPath
from dm2at_ray.service.routing import API, Routes, TheService

routes = Routes("pictures")

_PROBLEMS = ("unknown-run", "unknown-sample", "not-there", "outside-roots", "unreadable-image")
_ASKED_AGAIN = {
    # Another run may be begun under the name of one that was removed: its pictures are other ones.
    "Cache-Control": "private, no-cache",
    # Another person at the same browser has another token.
    "Vary": "Authorization",
}


@routes.get(
    f"{API}/runs/{{run}}/samples/{{sample_id}}/picture",
    "read",
    gives="image/*",
    also=UNCHANGED,
    problems=_PROBLEMS,
)
def show_picture(
    service: TheService, run: RunInPath, sample_id: SampleInPath, known: Known = None
) -> Response:
    """The picture of a sample, as browsers show it."""
    return unless_known(service.pictures.picture(service.runs.directory(run), sample_id), known, _ASKED_AGAIN)


@routes.get(
    f"{API}/runs/{{run}}/samples/{{sample_id}}/twin",
    "read",
    gives="image/png",
    also=UNCHANGED,
    problems=_PROBLEMS,
)
def show_twin(service: TheService, run: RunInPath, sample_id: SampleInPath, known: Known = None) -> Response:
    """The adversarial twin of a sample: what the round's model is misled by."""
    directory = service.runs.directory(run)
    with service.desks.at(directory) as desk:
        round_index = desk.query(sample_id).round
    return unless_known(service.pictures.twin(directory, round_index, sample_id), known, _ASKED_AGAIN)

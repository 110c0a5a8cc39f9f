"""Pictures of samples and their adversarial twins."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header
from starlette.responses import Response

from dm2at_ray.service.parameters import RunInPath, SampleInPath
from dm2at_ray.service.pictures import Picture
from dm2at_ray.service.routing import API, Routes, TheService

routes = Routes("pictures")

Known = Annotated[
    str | None, Header(alias="If-None-Match", description="ETag of what the client has.", max_length=2000)
]
_PROBLEMS = ("unknown-run", "unknown-sample", "not-there", "outside-roots", "unreadable-image")
_UNCHANGED = {304: "The client has it."}


@routes.get(
    f"{API}/runs/{{run}}/samples/{{sample_id}}/picture",
    "read",
    gives="image/*",
    also=_UNCHANGED,
    problems=_PROBLEMS,
)
def show_picture(
    service: TheService, run: RunInPath, sample_id: SampleInPath, known: Known = None
) -> Response:
    """The picture of a sample, as browsers show it."""
    return _picture(service.pictures.picture(service.runs.directory(run), sample_id), known)


@routes.get(
    f"{API}/runs/{{run}}/samples/{{sample_id}}/twin",
    "read",
    gives="image/png",
    also=_UNCHANGED,
    problems=_PROBLEMS,
)
def show_twin(service: TheService, run: RunInPath, sample_id: SampleInPath, known: Known = None) -> Response:
    """The adversarial twin of a sample: what the round's model is misled by."""
    directory = service.runs.directory(run)
    with service.desks.at(directory) as desk:
        round_index = desk.query(sample_id).round
    return _picture(service.pictures.twin(directory, round_index, sample_id), known)


def _picture(found: Picture, known: str | None) -> Response:
    headers = {
        "ETag": found.etag,
        "Cache-Control": "private, max-age=31536000, immutable",
        # Another person at the same browser has another token.
        "Vary": "Authorization",
    }
    if known is not None and _matches(known, found.etag):
        return Response(status_code=304, headers=headers)
    return Response(found.data, headers=headers, media_type=found.media_type)


def _matches(known: str, etag: str) -> bool:
    """Whether an If-None-Match header names an ETag.

    Examples:
        >>> _matches('W/"b", "a"', '"a"'), _matches("*", '"a"'), _matches('"c"', '"a"')
        (True, True, False)
    """
    tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags

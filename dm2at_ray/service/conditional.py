"""Files that a client may have already: told by their ETag, not sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Header
from starlette.responses import Response

from dm2at_ray.service.blobs import Blob

Known = Annotated[
    str | None, Header(alias="If-None-Match", description="ETag of what the client has.", max_length=2000)
]
UNCHANGED = {304: "The client has it."}


def unless_known(found: Blob, known: str | None, headers: Mapping[str, str]) -> Response:
    """A file, or that the client has it.

    Args:
        found: The file.
        known: The request's If-None-Match.
        headers: Of either answer.
    """
    headers = {"ETag": found.etag, **headers}
    if has_it(known, found.etag):
        return Response(status_code=304, headers=headers)
    return Response(found.data, headers=headers, media_type=found.media_type)


def has_it(known: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names an ETag.

    Examples:
        >>> has_it('W/"b", "a"', '"a"'), has_it("*", '"a"'), has_it('"c"', '"a"'), has_it(None, '"a"')
        (True, True, False, False)
    """
    if known is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags

"""What is sent back: messages, and problems in one shape whatever went wrong."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from dm2at_ray.client.schemas import Message
from dm2at_ray.errors import ConfigError, LabelError, ModelError, PoolError, RunError, UserError
from dm2at_ray.service.problems import ProblemError

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
_HEADERS: Mapping[str, Mapping[str, str]] = {
    "unauthenticated": {"WWW-Authenticate": 'Bearer realm="dm2at"'},
    "busy": {"Retry-After": "5"},
    "unreachable": {"Retry-After": "5"},
}
_KINDS: Sequence[tuple[type[UserError], str]] = (
    (ConfigError, "bad-config"),
    (ModelError, "bad-config"),
    (PoolError, "unreadable-image"),
    (RunError, "wrong-state"),
    (LabelError, "refused-labels"),
)
_OF_STATUS = {404: "unknown-path", 405: "wrong-method", 413: "too-large"}
_MOST_FIELDS = 20
_LONGEST_WORDS = 300
_LAST_FRAMES = 12


def told(message: Message, status: int = 200) -> Response:
    """A message as JSON.

    Made here and not by FastAPI, which would check it against its own type again, in another thread.
    """
    return Response(message.__pydantic_serializer__.to_json(message), status, media_type="application/json")


def problem(scope: Scope, error: Exception) -> Response:
    """The answer that an exception becomes: one line for who asked, the rest for the log."""
    found = _as_problem(error)
    if found.status >= 500:
        logger.error("%s %s: %s%s", scope.get("method"), path_of(scope), found, _traceback(error))
    headers = dict(_HEADERS.get(found.kind, {}))
    if isinstance(error, HTTPException):
        headers.update(error.headers or {})
    body = {
        "type": f"/problems/{found.kind}",
        "title": found.title,
        "status": found.status,
        "detail": str(found),
        "instance": path_of(scope),
        **found.more,
    }
    # What a client sent may stand in it, also what is no Unicode.
    text = json.dumps(body, ensure_ascii=False, default=_plain).encode("utf-8", "replace")
    return Response(text, found.status, headers, PROBLEM_TYPE)


def path_of(scope: Scope) -> str:
    """The path that was asked for, without its query, fit for a line of a log."""
    return quote(str(scope["path"])[:_LONGEST_WORDS])


def _as_problem(error: Exception) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _bad_request(error)
    if isinstance(error, HTTPException):
        return _http_problem(error)
    if isinstance(error, UserError):
        kind = next((kind for type_, kind in _KINDS if isinstance(error, type_)), "bad-request")
        return ProblemError(kind, str(error))
    if isinstance(error, OSError):
        return ProblemError(
            "unreachable", "the storage or the cluster does not answer as it should; try again in a moment"
        )
    return ProblemError("defect", "the service failed at this; its log tells why")


def _http_problem(error: HTTPException) -> ProblemError:
    details = {
        404: "nothing has this path; /docs tells what there is",
        405: f"only {(error.headers or {}).get('Allow', 'other methods')} can be done here",
        413: error.detail,
    }
    detail = details.get(error.status_code, "the request cannot be read; send what /docs tells")
    kind = _OF_STATUS.get(error.status_code, "bad-request")
    if error.status_code >= 500:
        kind, detail = "defect", "the service failed at this; its log tells why"
    return ProblemError(kind, detail)


def _bad_request(error: RequestValidationError) -> ProblemError:
    fields = [_field(found) for found in error.errors()[:_MOST_FIELDS]]
    line = "; ".join(f"{field['field']}: {field['reason']}" for field in fields[:3])
    more = len(error.errors()) - 3
    return ProblemError("bad-request", line + (f"; and {more} more" if more > 0 else ""), fields=fields)


def _field(found: Mapping[str, Any]) -> dict[str, str]:
    if found["type"] == "json_invalid":
        return {"field": "body", "reason": f"not JSON: {found['ctx']['error']} at {found['loc'][-1]}"}
    place = ".".join(str(part) for part in found["loc"][1:] or found["loc"])
    reason = str(found["msg"])
    return {"field": place[:_LONGEST_WORDS], "reason": (reason[:1].lower() + reason[1:])[:_LONGEST_WORDS]}


def _plain(value: object) -> object:
    if isinstance(value, Message):
        return value.model_dump(mode="json")
    return str(value)


def _traceback(error: Exception) -> str:
    """Where nobody foresaw the error: the end of its way, which all requests begin alike."""
    if isinstance(error, UserError):
        return ""
    return "\n" + "".join(traceback.format_exception(error, limit=-_LAST_FRAMES)).rstrip()

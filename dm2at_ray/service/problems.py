"""What the service answers where it cannot do what was asked: RFC 9457 problem details."""

from __future__ import annotations

from dm2at_ray.errors import UserError

TITLES = {
    "malformed": (400, "This is no HTTP request"),
    "unauthenticated": (401, "A valid token is needed"),
    "forbidden": (403, "The token's role does not allow this"),
    "foreign": (403, "Only this machine's own pages and programs may ask"),
    "outside-roots": (403, "Outside the places that the service may open"),
    "unknown-run": (404, "There is no such run"),
    "unknown-round": (404, "There is no such round"),
    "unknown-sample": (404, "There is no such sample"),
    "not-there": (404, "There is none yet"),
    "unknown-path": (404, "There is nothing here"),
    "wrong-method": (405, "This cannot be done here"),
    "other-config": (409, "The name is taken by another run"),
    "not-awaiting": (409, "No round awaits labels"),
    "wrong-state": (409, "The run's state does not allow this"),
    "too-large": (413, "The request is too large"),
    "wrong-type": (415, "The request is not JSON"),
    "unreadable-image": (422, "The image cannot be read"),
    "bad-config": (422, "The config cannot be used"),
    "refused-labels": (422, "Labels were refused"),
    "bad-request": (422, "The request is not as the API has it"),
    "no-cluster": (503, "The service knows no Ray cluster"),
    "busy": (503, "Too many ask at once"),
    "unreachable": (503, "The Ray cluster or the storage does not answer"),
    "defect": (500, "The service has a defect"),
}
"""Kind of problem, as in its `type` URI -> status code and title."""


class ProblemError(UserError):
    """A request that cannot be served, in one line that names the thing, its value and the mend.

    Args:
        kind: A key of TITLES.
        detail: The line.
        more: Further members of the problem's JSON.
    """

    def __init__(self, kind: str, detail: str, **more: object) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = TITLES[kind]
        self.more = more

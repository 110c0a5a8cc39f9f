"""Every route of the API, as its own description tells it."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import FastAPI

VALUES = {"run": "digits", "round": "1", "sample_id": "1300"}
METHODS = ("get", "post", "put", "patch", "delete")


class Route(NamedTuple):
    """A thing that can be asked.

    Attributes:
        method: HTTP method.
        template: Of its path.
        role: That it needs; None where anybody may.
        operation: What the API says of it.
    """

    method: str
    template: str
    role: str | None
    operation: dict[str, Any]

    def path(self, **values: str) -> str:
        """Its path, with the run that awaits labels where nothing else is named."""
        return self.template.format(**{**VALUES, **values})


def routes_of(app: FastAPI) -> list[Route]:
    """All of them."""
    return [
        Route(method.upper(), template, operation.get("x-role"), operation)
        for template, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def assert_problem(status: int, media_type: str | None, body: dict[str, Any]) -> None:
    """What every error looks like, whoever made it."""
    assert media_type == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance"} <= set(body)
    assert body["status"] == status
    assert body["type"].startswith("/problems/")
    assert body["detail"]
    assert "\n" not in body["detail"]
    assert "Traceback" not in str(body)

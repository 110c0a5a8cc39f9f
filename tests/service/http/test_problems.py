"""Every error is a problem with one clear line, and changes nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from dm2at_ray.errors import ConfigError, LabelError, ModelError, PoolError, RunError, UserError
from dm2at_ray.service.problems import TITLES, ProblemError
from dm2at_ray.service.service import Service

from .conftest import Place
from .routes import assert_problem, routes_of
from .test_roles import snapshot

API = "/api/v1"


def refused(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem that an answer is."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert_problem(status, answer.headers["content-type"], body)
    assert body["type"] == f"/problems/{kind}"
    return body


@pytest.mark.parametrize(
    "path", ["/nothing", f"{API}/", f"{API}/runs/", "/static/nothing.js", "/docs/", f"{API}/me/x"]
)
def test_unknown_path__is_404(path: str, client: TestClient) -> None:
    body = refused(client.get(path), 404, "unknown-path")
    assert body["instance"] == path


def test_unknown_path__does_not_tell_what_else_the_request_said(client: TestClient) -> None:
    body = refused(client.get("/nothing?token=secret"), 404, "unknown-path")
    assert "secret" not in str(body)


def test_wrong_method__is_405_with_all_that_are_right(client: TestClient) -> None:
    for route in routes_of(client.app):  # type: ignore[arg-type]
        answer = client.request("PATCH", route.path())
        refused(answer, 405, "wrong-method")
        right = {r.method for r in routes_of(client.app) if r.path() == route.path()}  # type: ignore[arg-type]
        assert set(answer.headers["allow"].split(", ")) == right


def test_unknown_run__is_404_everywhere_and_changes_nothing(place: Place, client: TestClient) -> None:
    before = snapshot(place.runs)
    bodies: dict[str, Any] = {
        "leases": {"session": "s"},
        "release": {"session": "s"},
        "labels": {"answers": [{"sample_id": 1, "label": "one"}]},
    }
    seen = 0
    for route in routes_of(client.app):  # type: ignore[arg-type]
        if "{run}" not in route.template or route.template.endswith("/resume"):
            continue
        body = bodies.get(route.template.rsplit("/", 1)[-1], {}) if route.method == "POST" else None
        answer = client.request(route.method, route.path(run="nobody-knows"), json=body)
        refused(answer, 404, "unknown-run")
        seen += 1
    assert seen > 15
    assert snapshot(place.runs) == before


def test_unknown_round__is_404(client: TestClient) -> None:
    refused(client.get(f"{API}/runs/digits/rounds/7/queries"), 404, "unknown-round")
    refused(client.get(f"{API}/runs/digits/rounds/7/model"), 404, "unknown-round")
    refused(client.get(f"{API}/runs/digits/rounds/7/model/spec"), 404, "unknown-round")
    refused(client.post(f"{API}/runs/digits/rounds/7/accept"), 404, "unknown-round")


def test_unknown_sample__is_404(client: TestClient) -> None:
    for last in ("", "/picture", "/twin"):
        refused(client.get(f"{API}/runs/digits/samples/77{last}"), 404, "unknown-sample")
        refused(client.get(f"{API}/runs/digits/samples/{2**53 - 1}{last}"), 404, "unknown-sample")


def test_round_that_awaits_nothing__cannot_be_accepted(client: TestClient) -> None:
    refused(client.post(f"{API}/runs/done/rounds/1/accept"), 409, "not-awaiting")


def test_no_cluster__is_503(client: TestClient) -> None:
    body = {"name": "new", "config": "data: {source: digits}"}
    refused(client.post(f"{API}/runs", json=body), 503, "no-cluster")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"sample_id": 1300, "label": "two", "round": 0}, "other_round"),
        ({"sample_id": 77, "label": "two"}, "not_asked"),
        ({"sample_id": 10**15, "label": "two"}, "unknown_sample"),
        ({"sample_id": 1300, "label": "eleven"}, "unknown_class"),
    ],
)
def test_labels_that_cannot_be__are_refused_with_the_others(
    answer: dict[str, Any], outcome: str, place: Place, client: TestClient
) -> None:
    before = snapshot(place.runs)
    good = {"sample_id": 5, "label": "one"}
    body = refused(
        client.post(f"{API}/runs/digits/labels", json={"answers": [good, answer]}), 422, "refused-labels"
    )
    assert [each["outcome"] for each in body["outcomes"]] == [outcome]
    assert snapshot(place.runs) == before
    taken = client.post(f"{API}/runs/digits/labels", json={"answers": [good, answer], "keep_good": True})
    assert taken.status_code == 200
    assert [each["outcome"] for each in taken.json()["outcomes"]] == ["new", outcome]
    assert snapshot(place.runs) != before


LABELS = f"{API}/runs/digits/labels"
ONE = {"sample_id": 1300, "label": "two"}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b'{"answers": []}', "answers"),
        (b'{"answers": [{"sample_id": -1, "label": "two"}]}', "answers.0.sample_id"),
        (b'{"answers": [{"sample_id": 1.5, "label": "two"}]}', "answers.0.sample_id"),
        (b'{"answers": [{"sample_id": ' + b"9" * 5000 + b', "label": "two"}]}', "body"),
        (b'{"answers": [{"sample_id": 1300}]}', "answers.0.label"),
        (b'{"answers": [{"sample_id": 1300, "label": ""}]}', "answers.0.label"),
        (b'{"answers": [{"sample_id": 1300, "label": "two", "x": 1}]}', "answers.0.x"),
        (b'{"answers": [{"sample_id": 1300, "label": "\\ud800"}]}', "answers.0.label"),
        (b'{"answers": [{"sample_id": NaN, "label": "two"}]}', "answers.0.sample_id"),
        (b'{"answers": [{"sample_id": 1300, "label": "two"}], "session": "a b"}', "session"),
        (b'{"answers": [{"sample_id": 1300, "label": "two"}], "\\ud800": 1}', "body"),
    ],
)
def test_body_that_is_not_as_told__is_422_and_names_the_field(
    content: bytes, field: str, place: Place, client: TestClient
) -> None:
    before = snapshot(place.runs)
    answer = client.post(LABELS, content=content, headers={"Content-Type": "application/json"})
    body = refused(answer, 422, "bad-request")
    if body["detail"].startswith("the request cannot be read"):
        assert field == "body"
    else:
        assert body["fields"][0]["field"] == field
    assert snapshot(place.runs) == before


def test_many_wrong_fields__are_told_in_a_short_answer(client: TestClient) -> None:
    answers = [{"sample_id": -1, "label": "x" * 1000}] * 1000
    answer = client.post(LABELS, json={"answers": answers})
    body = refused(answer, 422, "bad-request")
    assert len(answer.content) < 10_000
    assert "and 1997 more" in body["detail"]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", None]
)
def test_body_that_is_no_json__is_415(media_type: str | None, place: Place, client: TestClient) -> None:
    before = snapshot(place.runs)
    headers = {"Content-Type": media_type} if media_type else {}
    for route in routes_of(client.app):  # type: ignore[arg-type]
        if route.method == "POST":
            refused(client.post(route.path(), content=b"{}", headers=headers), 415, "wrong-type")
    assert snapshot(place.runs) == before


def test_queries_of_the_url__are_bounded(client: TestClient) -> None:
    for path in (
        "/runs?limit=0",
        "/runs?limit=201",
        "/runs?after=../x",
        "/runs/digits/rounds?limit=1000",
        "/runs/digits/rounds/1/queries?limit=501",
        "/runs/digits/rounds/1/queries?state=some",
        "/runs/digits/rounds/1/queries?after=-1",
        "/runs/digits/labels/said?limit=501",
        f"/runs/digits/labels/said?sample_id={2**70}",
        "/runs/digits/labels/disagreements?limit=-5",
        "/runs/digits/rounds/-1/queries",
        "/runs/digits/rounds/1000001/queries",
        "/runs/digits/samples/-1",
        f"/runs/digits/samples/{2**63}",
        "/runs/digits/samples/1e3",
    ):
        refused(client.get(API + path), 422, "bad-request")


ERRORS = {
    "its own": (ProblemError("not-there", "none of it"), 404, "not-there", "none of it"),
    "config": (ConfigError("stop.rounds = 0: raise it"), 422, "bad-config", "stop.rounds = 0: raise it"),
    "model": (ModelError("no such model"), 422, "bad-config", "no such model"),
    "pool": (PoolError("no such image"), 422, "unreadable-image", "no such image"),
    "run": (RunError("another driver"), 409, "wrong-state", "another driver"),
    "label": (LabelError("no such label"), 422, "refused-labels", "no such label"),
    "user": (UserError("mend it"), 422, "bad-request", "mend it"),
    "storage": (OSError("s3://bucket/secret-place is gone"), 503, "unreachable", None),
    "time": (TimeoutError("secret-place"), 503, "unreachable", None),
    "defect": (KeyError("secret-place"), 500, "defect", None),
    "number": (ZeroDivisionError("secret-place"), 500, "defect", None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_of_the_parts__become_problems_that_tell_no_more_than_they_should(
    name: str, client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error, status, kind, detail = ERRORS[name]

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Service, "run_status", fail)
    with caplog.at_level(logging.INFO):
        answer = client.get(f"{API}/runs/digits")
    body = refused(answer, status, kind)
    assert detail is None or body["detail"] == detail
    assert "secret-place" not in answer.text
    if detail is None:
        assert "secret-place" in caplog.text, "who runs the service has to see why"
        assert "Traceback" in caplog.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        # The same connection serves the next request.
        monkeypatch.undo()
        assert client.get(f"{API}/runs/digits").status_code == 200


def test_too_large__is_413_whatever_the_route(client: TestClient) -> None:
    for route in routes_of(client.app):  # type: ignore[arg-type]
        if route.method == "POST":
            answer = client.post(
                route.path(), content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"}
            )
            refused(answer, 413, "too-large")


def test_titles__each_kind_has_a_status_of_its_sort() -> None:
    for status, title in TITLES.values():
        assert 400 <= status < 600
        assert title[0].isupper()
        assert not title.endswith(".")

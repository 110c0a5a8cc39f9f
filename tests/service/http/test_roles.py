"""Who may do what: every route of the API with every role, so that no new one is forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from starlette.routing import Mount
from starlette.testclient import TestClient

from dm2at_ray.service.app import create_app
from dm2at_ray.service.routing import GuardedRoute
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import new_token, revoke_token

from .conftest import LOCAL, ROLES, Place
from .routes import assert_problem, routes_of

AGREED = {
    ("GET", "/"): None,
    ("GET", "/docs"): None,
    ("GET", "/healthz"): None,
    ("GET", "/metrics"): "read",
    ("GET", "/api/v1/openapi.json"): None,
    ("GET", "/api/v1/me"): "read",
    ("GET", "/api/v1/runs"): "read",
    ("POST", "/api/v1/runs"): "operate",
    ("GET", "/api/v1/runs/{run}"): "read",
    ("GET", "/api/v1/runs/{run}/events"): "read",
    ("POST", "/api/v1/runs/{run}/pause"): "operate",
    ("POST", "/api/v1/runs/{run}/resume"): "operate",
    ("POST", "/api/v1/runs/{run}/stop"): "operate",
    ("GET", "/api/v1/runs/{run}/config"): "read",
    ("GET", "/api/v1/runs/{run}/rounds"): "read",
    ("GET", "/api/v1/runs/{run}/rounds/{round}/queries"): "read",
    ("POST", "/api/v1/runs/{run}/rounds/{round}/accept"): "operate",
    ("GET", "/api/v1/runs/{run}/rounds/{round}/model"): "read",
    ("GET", "/api/v1/runs/{run}/rounds/{round}/model/spec"): "read",
    ("GET", "/api/v1/runs/{run}/report"): "read",
    ("GET", "/api/v1/runs/{run}/samples/{sample_id}"): "read",
    ("GET", "/api/v1/runs/{run}/samples/{sample_id}/picture"): "read",
    ("GET", "/api/v1/runs/{run}/samples/{sample_id}/twin"): "read",
    ("POST", "/api/v1/runs/{run}/leases"): "label",
    ("POST", "/api/v1/runs/{run}/leases/release"): "label",
    ("POST", "/api/v1/runs/{run}/labels"): "label",
    ("GET", "/api/v1/runs/{run}/labels"): "read",
    ("GET", "/api/v1/runs/{run}/labels/said"): "read",
    ("GET", "/api/v1/runs/{run}/labels/disagreements"): "operate",
}
"""What the issue says, route by route."""

APP = create_app(ServiceSettings("nowhere"))
ROUTES = routes_of(APP)
GUARDED = [route for route in ROUTES if route.role is not None]


def of(route: object) -> str:
    return f"{route[0]} {route[1]}"  # type: ignore[index]


def test_routes__need_the_roles_that_were_agreed_on() -> None:
    assert {(route.method, route.template): route.role for route in ROUTES} == AGREED


def test_routes__are_all_told_and_all_guarded() -> None:
    """A route that is added past the guard, or hidden from the description, is seen here."""
    guarded = [route for route in APP.routes if isinstance(route, GuardedRoute)]
    others = [route for route in APP.routes if not isinstance(route, GuardedRoute)]
    assert [(type(route), route.path) for route in others] == [(Mount, "/static")]
    assert {(method, route.path) for route in guarded for method in route.methods} == set(AGREED)
    for route in ROUTES:
        assert ("security" in route.operation) == (route.role is not None)


@pytest.fixture
def quiet_client(client: TestClient) -> TestClient:
    """No event stream begins: it would not end."""
    client.app.state.service.events.close()  # type: ignore[attr-defined]
    del client.headers["Authorization"]
    return client


def test_guarded__without_a_token_or_with_another_is_401(place: Place, quiet_client: TestClient) -> None:
    secret = place.secrets["operate"]
    wrong = {
        "none": {},
        "of nobody": {"Authorization": "Bearer dm2at_" + "x" * 43},
        "empty": {"Authorization": "Bearer "},
        "cut": {"Authorization": f"Bearer {secret[:-1]}"},
        "longer": {"Authorization": f"Bearer {secret}x"},
        "endless": {"Authorization": "Bearer " + "x" * 20_000},
        "another scheme": {"Authorization": f"Basic {secret}"},
        "no scheme": {"Authorization": secret},
        "not ASCII": {"Authorization": "Bearer t\xf6ken".encode("latin-1")},
        "in a cookie": {"Cookie": f"token={secret}; Authorization=Bearer {secret}"},
    }
    for route in GUARDED:
        for name, headers in wrong.items():
            answer = quiet_client.request(route.method, route.path(), headers=headers)
            assert answer.status_code == 401, (of(route), name)
            assert answer.headers["www-authenticate"].startswith("Bearer"), of(route)
            assert_problem(401, answer.headers["content-type"], answer.json())
        answer = quiet_client.request(
            route.method, route.path(), params={"token": secret, "access_token": secret}
        )
        assert answer.status_code == 401, of(route)


def test_guarded__each_role_may_do_what_it_may(place: Place, quiet_client: TestClient) -> None:
    before = snapshot(place.runs)
    for route in GUARDED:
        needed = ROLES.index(str(route.role))
        for role in ROLES[:needed]:
            answer = quiet_client.request(route.method, route.path(), headers=place.bearer(role))
            assert answer.status_code == 403, (of(route), role)
            assert_problem(403, answer.headers["content-type"], answer.json())
            assert answer.json()["type"] == "/problems/forbidden"
    assert snapshot(place.runs) == before, "what was refused has changed something"
    for route in GUARDED:
        for role in ROLES[ROLES.index(str(route.role)) :]:
            answer = quiet_client.request(route.method, route.path(), headers=place.bearer(role))
            assert answer.status_code not in (401, 403, 405, 500), (of(route), role, answer.text)


def test_guarded__who_may_not_is_told_before_the_body_is_read(place: Place, quiet_client: TestClient) -> None:
    path = "/api/v1/runs/digits/labels"
    broken = {"content": b"{", "headers": {"Content-Type": "application/json"}}
    assert quiet_client.post(path, **broken).status_code == 401
    broken["headers"] |= place.bearer("read")
    assert quiet_client.post(path, **broken).status_code == 403


def test_public__needs_no_token(quiet_client: TestClient) -> None:
    for route in ROUTES:
        if route.role is None:
            assert quiet_client.request(route.method, route.path()).status_code == 200, of(route)


def test_new_classes__are_an_operators_to_add(place: Place, client: TestClient) -> None:
    body = {"answers": [{"sample_id": 1300, "label": "blob"}], "add_classes": ["blob"]}
    answer = client.post("/api/v1/runs/digits/labels", json=body, headers=place.bearer("label"))
    assert answer.status_code == 403
    assert_problem(403, answer.headers["content-type"], answer.json())
    assert client.get("/api/v1/runs/digits/labels").json()["rounds"][1]["answered"] == 0
    assert client.post("/api/v1/runs/digits/labels", json=body).status_code == 200


def test_labels__stand_under_the_name_of_the_token(place: Place, client: TestClient) -> None:
    for role, label in (("label", "one"), ("operate", "two")):
        body = {"answers": [{"sample_id": 1300, "label": label}]}
        assert (
            client.post("/api/v1/runs/digits/labels", json=body, headers=place.bearer(role)).status_code
            == 200
        )
    said = client.get("/api/v1/runs/digits/labels/said", params={"sample_id": 1300}).json()["said"]
    assert [(word["source"], word["label"]) for word in said] == [("label", "one"), ("operate", "two")]


def test_token__revoked_or_made_while_the_service_runs_counts_a_second_later(
    place: Place, client: TestClient
) -> None:
    def status(secret: str) -> int:
        return client.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code

    assert status(place.secrets["label"]) == 200
    revoke_token(place.tokens, "label")
    later = new_token(place.tokens, "later", "read")
    time.sleep(1.1)
    assert status(place.secrets["label"]) == 401
    assert status(later) == 200
    assert status(place.secrets["read"]) == 200


def test_token__file_that_cannot_be_read_lets_nobody_in(place: Place, client: TestClient) -> None:
    text = place.tokens.read_text()
    place.tokens.write_text(text + "- {name: half")
    time.sleep(1.1)
    answer = client.get("/api/v1/me")
    assert answer.status_code == 503
    assert_problem(503, answer.headers["content-type"], answer.json())
    assert str(place.tokens) not in answer.text
    place.tokens.write_text(text)
    time.sleep(1.1)
    assert client.get("/api/v1/me").status_code == 200


def test_me__tells_who_asks(place: Place, client: TestClient) -> None:
    me = client.get("/api/v1/me", headers=place.bearer("label")).json()
    assert (me["name"], me["role"], me["can_start_runs"]) == ("label", "label", False)


def test_without_tokens__everybody_on_this_machine_may_do_everything(open_client: TestClient) -> None:
    me = open_client.get("/api/v1/me").json()
    assert (me["name"], me["role"]) == ("local", "operate")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.0.2.1", "[2001:db8::1]:80", ""]
)
def test_without_tokens__another_name_is_refused(host: str, open_client: TestClient) -> None:
    for route in ROUTES:
        answer = open_client.request(route.method, route.path(), headers={"Host": host})
        assert answer.status_code == 403, of(route)
        assert_problem(403, answer.headers["content-type"], answer.json())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8700", "[::1]:8700", "LOCALHOST:80"])
def test_without_tokens__this_machine_may_be_called_as_it_is(host: str, open_client: TestClient) -> None:
    assert open_client.get("/api/v1/me", headers={"Host": host}).status_code == 200


def test_without_tokens__another_sites_page_changes_nothing(place: Place, open_client: TestClient) -> None:
    """What a browser sends unasked: a form, or a request without credentials, whose answer it hides."""
    before = snapshot(place.runs)
    pause, labels = "/api/v1/runs/digits/pause", "/api/v1/runs/digits/labels"
    body = b'{"answers": [{"sample_id": 1300, "label": "two"}]}'
    foreign = {"Origin": "https://evil.example"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    plain = {"Content-Type": "text/plain"}
    attempts = [
        (pause, b"", foreign),
        (pause, b"", form),
        (pause, b"", {"Origin": "null"}),
        (pause, b"", {"Origin": "http://127.0.0.1:9999"}),
        (labels, body, plain),
        (labels, body, form),
        (labels, body, {}),
        (labels, body, {"Content-Type": "application/json", **foreign}),
    ]
    for path, content, headers in attempts:
        answer = open_client.post(path, content=content, headers=headers)
        assert answer.status_code in (403, 415), (path, headers, answer.text)
        assert_problem(answer.status_code, answer.headers["content-type"], answer.json())
    assert snapshot(place.runs) == before
    own = {"Content-Type": "application/json", "Origin": LOCAL}
    assert open_client.post(labels, content=body, headers=own).status_code == 200


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

"""What answers say to browsers and caches."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from .conftest import Place
from .routes import routes_of

API = "/api/v1"
PICTURE = f"{API}/runs/digits/samples/1300/picture"


def test_every_answer__keeps_browsers_from_guessing_framing_and_telling_on(client: TestClient) -> None:
    client.app.state.service.events.close()  # type: ignore[attr-defined]
    for route in routes_of(client.app):  # type: ignore[arg-type]
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = client.request(route.method, route.path(), headers=headers)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            policy = answer.headers["content-security-policy"]
            assert "unsafe-eval" not in policy
            assert "script-src" not in policy, "scripts come from the service itself or not at all"
            if not answer.headers["content-type"].startswith("text/html"):
                assert "unsafe-inline" not in policy
            if answer.headers["content-type"].endswith("json"):
                assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers


def test_page__is_served_with_a_policy_that_lets_it_load_from_the_service_only(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: data:"
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", answer.text)
    for address in re.findall(r'(?:src|href)="([^"#]+)"', answer.text):
        assert not re.match(r"[a-z]+:|//", address)
        assert client.get("/" + address).status_code == 200, address


def test_static__is_asked_for_again_and_told_unchanged(client: TestClient) -> None:
    first = client.get("/static/style.css")
    assert first.headers["content-type"].startswith("text/css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "javascript" in client.get("/static/main.js").headers["content-type"]


def test_docs__load_nothing_and_tell_every_route(client: TestClient) -> None:
    answer = client.get("/docs")
    assert not re.search(r"<script|<link|<img|@import|url\(", answer.text)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)
    for route in routes_of(client.app):  # type: ignore[arg-type]
        assert f"{route.method} {route.template}" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_picture__shows_the_sample(place: Place, client: TestClient) -> None:
    answer = client.get(PICTURE)
    assert answer.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"))
    np.testing.assert_array_equal(pixels, place.asked.pixels[1300])


@pytest.mark.parametrize("path", [PICTURE, f"{API}/runs/done/samples/1300/twin", f"{API}/runs/done/report"])
def test_files__are_not_sent_again_to_who_has_them(path: str, client: TestClient) -> None:
    first = client.get(path)
    assert first.status_code == 200
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
    assert first.headers["cache-control"].startswith("private")
    assert first.headers["vary"] == "Authorization"


def test_pictures__may_be_kept_for_ever_by_who_asked_only(client: TestClient) -> None:
    kept = client.get(PICTURE).headers["cache-control"]
    assert kept == "private, no-cache"


def test_model__is_a_file_of_its_length_that_can_be_loaded(client: TestClient) -> None:
    import safetensors.torch

    from dm2at_ray.models import ModelSpec

    answer = client.get(f"{API}/runs/done/rounds/1/model")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"] == 'attachment; filename="done-round-1.safetensors"'
    spec = client.get(f"{API}/runs/done/rounds/1/model/spec").json()["spec"]
    model = ModelSpec(**spec).build()
    model.load_state_dict(safetensors.torch.load(answer.content))
    etag = answer.headers["etag"]
    again = client.get(f"{API}/runs/done/rounds/1/model", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_report__may_do_nothing(client: TestClient) -> None:
    answer = client.get(f"{API}/runs/done/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert "<script" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'; ")


def test_config__is_yaml(client: TestClient) -> None:
    answer = client.get(f"{API}/runs/digits/config")
    assert answer.headers["content-type"].startswith("text/yaml")
    assert "name: digits" in answer.text

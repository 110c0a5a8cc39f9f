"""What the service tells Prometheus of itself: by routes, never by what clients send."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from .conftest import Place

API = "/api/v1"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(client: TestClient) -> Samples:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(samples: Samples, **labels: str) -> float:
    return samples.get(("dm2at_service_requests_total", tuple(sorted(labels.items()))), 0.0)


def test_requests__are_counted_by_the_template_of_their_route(client: TestClient) -> None:
    before = scraped(client)
    for run in ("digits", "done", "nobody"):
        client.get(f"{API}/runs/{run}")
    route = f"{API}/runs/{{run}}"
    after = scraped(client)
    for code, count in (("200", 2), ("404", 1)):
        labels = {"route": route, "method": "GET", "code": code}
        assert requests(after, **labels) - requests(before, **labels) == count
    assert after["dm2at_service_request_seconds_count", (("route", route),)] == 3
    assert after["process_resident_memory_bytes", ()] > 1e6


def test_series__are_not_made_by_what_clients_send(place: Place, client: TestClient) -> None:
    for method in ("GET", "POST", "BREW", "X-1"):
        client.request(method, "/nothing")
        client.request(method, f"{API}/runs/x/config")
    scraped(client)
    begun = set(scraped(client))
    for number in range(30):
        client.request(f"M{number}", f"/nothing-{number}")
        client.request(f"M{number}", f"{API}/runs/run-{number}/config")
        client.get(f"{API}/runs/run-{number}/config", headers={"Authorization": f"Bearer {number}"})
        client.get(f"{API}/runs/run-{number}/config?x={number}")
    new = set(scraped(client)) - begun
    assert {dict(labels).get("code") for _, labels in new} <= {"401", None}
    assert len(new) < 10


def test_answers__are_counted_by_what_became_of_them(client: TestClient) -> None:
    for label in ("two", "two", "three", None):
        body = {"answers": [{"sample_id": 1300, "label": label}]}
        assert client.post(f"{API}/runs/digits/labels", json=body).status_code == 200
    client.post(
        f"{API}/runs/digits/labels", json={"answers": [{"sample_id": 5, "label": "one"}], "check": True}
    )
    samples = scraped(client)
    counted = {
        dict(labels)["outcome"]: value
        for (name, labels), value in samples.items()
        if name == "dm2at_service_answers_total"
    }
    assert counted == {"new": 1, "same": 1, "correction": 2}


def test_metrics__need_a_token(client: TestClient) -> None:
    assert client.get("/metrics", headers={"Authorization": ""}).status_code == 401

"""Every method of the client against a real server."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from dm2at_ray.client import Client, ServiceError
from dm2at_ray.client.schemas import AnswerIn
from dm2at_ray.errors import UserError
from dm2at_ray.models import ModelSpec

from ..labeling.asked_run import ASKED, FIRST, NAMES
from .conftest import MANY, Live


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_me__who_asks(live: Live) -> None:
    assert [(live.client(role).me().name, live.client(role).me().role) for role in live.secrets] == [
        (role, role) for role in live.secrets
    ]


def test_runs__all_of_them_page_by_page(live: Live) -> None:
    found = list(live.client("read").runs())
    assert [run.name for run in found] == ["asked", "done", *(f"empty-{n:02}" for n in range(60)), "many"]


def test_status__config_and_rounds(live: Live) -> None:
    client = live.client("read")
    status = client.status("asked")
    assert status.classes == NAMES
    assert client.config("asked").startswith("name: digits\n")
    assert [found.metrics["round"] for found in client.rounds("done")] == [0, 1]
    assert client.status("done").rounds_committed == 2


def test_queries__all_of_them_page_by_page(live: Live) -> None:
    client = live.client("read")
    found = list(client.queries("many", 1))
    assert [query.rank for query in found] == list(range(MANY))
    assert [query.sample_id for query in client.queries("asked", 1, "open")][-1] == ASKED[-1]
    one = client.query("asked", ASKED[0])
    assert one.predicted == live.asked.predicted(ASKED[0])
    assert [near.sample_id for near in one.neighbors] == FIRST[:2]


def test_picture__and_twin(live: Live) -> None:
    client = live.client("read")
    for sample in (ASKED[0], FIRST[0]):
        np.testing.assert_array_equal(pixels(client.picture("asked", sample)), live.asked.pixels[sample])
    sample = int(live.done.queries[1][3])
    expected = live.done.twin_of(live.done.images[sample])[..., 0]
    np.testing.assert_array_equal(pixels(client.twin("done", sample)), expected)


def test_model__and_its_spec_and_the_report(live: Live, tmp_path: Path) -> None:
    client = live.client("read")
    path = client.model("done", 1, tmp_path / "weights.safetensors")
    spec = client.model_spec("done", 1)
    assert spec["round"] == 1
    ModelSpec(**spec["spec"]).build().load_state_dict(safetensors.torch.load_file(path))
    assert [each.name for each in tmp_path.iterdir()] == ["weights.safetensors"]
    with pytest.raises(ServiceError, match="no model to give yet"):
        client.model("asked", 1, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert client.report("done").startswith("<!DOCTYPE html>")


def test_answer__leases_labels_and_what_was_said(live: Live) -> None:
    ann, bob, boss = live.client("label"), live.client("operate"), live.client("operate")
    lease = ann.claim("many", "window-1", count=3)
    assert [query.rank for query in lease.queries] == [0, 1, 2]
    assert [query.rank for query in bob.claim("many", "window-2", count=2).queries] == [3, 4]
    ids = [query.sample_id for query in lease.queries]
    checked = ann.answer("many", {ids[0]: "three", ids[1]: None}, check=True)
    assert [each.outcome for each in checked.outcomes] == ["new", "skipped"]
    assert checked.written == 0
    assert [query.answered for query in ann.claim("many", "window-1", 3).queries] == [False] * 3
    report = ann.answer("many", {ids[0]: "three", ids[1]: None}, session="window-1")
    assert (report.written, report.mine) == (2, 2)
    assert ann.answer("many", [(ids[0], "three")]).written == 0
    assert bob.answer("many", [AnswerIn(sample_id=ids[0], label="five")]).outcomes[0].detail == "was 'three'"
    assert [(each.label, each.source) for each in ann.said("many", ids[0])] == [
        ("three", "label"),
        ("five", "operate"),
    ]
    assert [each.sample_id for each in boss.disagreements("many")] == [ids[0]]
    ann.release("many", "window-1", [ids[2]])
    bob.release("many", "window-2")
    assert [query.rank for query in bob.claim("many", "window-3", 4).queries] == [2, 3, 4, 5]
    bob.release("many", "window-3")
    status = boss.labels("many")
    assert status.corrections == 1
    assert status.classes["five"] >= 1


def test_answer__refused_tells_each_one(live: Live) -> None:
    client = live.client()
    answers = {ASKED[0]: "zero", ASKED[1]: "zebra", 2: "two", 10**9: "one"}
    outcomes = ["new", "unknown_class", "not_asked", "unknown_sample"]
    found = client.answer("asked", answers, check=True).outcomes
    assert [each.outcome for each in found] == outcomes
    with pytest.raises(ServiceError, match="3 of 4 labels are refused") as refusal:
        client.answer("asked", answers)
    assert refusal.value.kind == "refused-labels"
    assert [each["outcome"] for each in refusal.value.more["outcomes"]] == outcomes[1:]
    assert client.query("asked", ASKED[0]).answered is False
    assert client.answer("asked", answers, keep_good=True).written == 1
    assert client.answer("asked", {ASKED[1]: "zebra"}, add_classes=["zebra"]).written == 1
    assert client.accept("asked", 1).accepted


def test_answer__a_check_of_new_classes_is_an_operator_s_too(live: Live) -> None:
    with pytest.raises(ServiceError) as refusal:
        live.client("label").answer("asked", {ASKED[2]: "yak"}, add_classes=["yak"], check=True)
    assert refusal.value.kind == "forbidden"


def test_errors__have_their_kind_and_words(live: Live) -> None:
    client = live.client("read")
    for call, kind, status in (
        (lambda: client.status("none"), "unknown-run", 404),
        (lambda: client.status("../asked"), "unknown-run", 0),
        (lambda: list(client.queries("asked", 9)), "unknown-round", 404),
        (lambda: client.picture("asked", 999), "unknown-sample", 404),
        (lambda: client.twin("asked", ASKED[0]), "not-there", 404),
        (lambda: client.stop("asked"), "forbidden", 403),
        (lambda: Client(live.server.url).me(), "unauthenticated", 401),
        (lambda: Client(live.server.url, "wrong").me(), "unauthenticated", 401),
        (lambda: live.client().start("new", "data: {source: digits}"), "no-cluster", 503),
        (lambda: Client(f"{live.server.url}/elsewhere", live.secrets["read"]).me(), "unknown-path", 404),
    ):
        with pytest.raises(ServiceError) as error:
            call()
        assert (error.value.kind, error.value.status) == (kind, status)
        assert isinstance(error.value, UserError)
        assert str(error.value)


def test_errors__who_has_no_token_is_told_how_to_give_one(live: Live) -> None:
    with pytest.raises(ServiceError, match="asks for a token; set DM2AT_TOKEN"):
        Client(live.server.url).me()


def test_control__of_a_run_without_a_cluster(live: Live) -> None:
    client = live.client()
    assert client.pause("empty-00").state == "paused"
    assert client.stop("empty-00").state == "stopped"
    with pytest.raises(ServiceError) as error:
        client.resume("empty-00")
    assert error.value.kind == "no-cluster"


def test_metrics__and_the_description(live: Live) -> None:
    assert "# TYPE" in live.client().metrics()
    assert "/api/v1/runs/{run}/labels" in Client(live.server.url).openapi()["paths"]


def test_client__has_a_method_for_every_route(live: Live) -> None:
    paths = live.client().openapi()["paths"]
    routes = {told["operationId"] for path in paths.values() for told in path.values()}
    names = {
        "who_am_i": "me",
        "list_runs": "runs",
        "start_run": "start",
        "run_status": "status",
        "run_events": "events",
        "pause_run": "pause",
        "resume_run": "resume",
        "stop_run": "stop",
        "run_config": "config",
        "list_rounds": "rounds",
        "list_queries": "queries",
        "accept_round": "accept",
        "show_query": "query",
        "lease_queries": "claim",
        "release_queries": "release",
        "post_labels": "answer",
        "labels_status": "labels",
        "list_said": "said",
        "list_disagreements": "disagreements",
        "show_picture": "picture",
        "show_twin": "twin",
        "download_model": "model",
        "model_spec": "model_spec",
        "run_report": "report",
        "metrics": "metrics",
        "openapi": "openapi",
    }
    assert routes - {"healthz", "label_page", "docs"} == set(names)
    assert all(callable(getattr(Client, name)) for name in names.values())


def test_token__from_the_environment_and_never_told(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = live.secrets["read"]
    monkeypatch.setenv("DM2AT_TOKEN", secret)
    client = Client(live.server.url)
    with caplog.at_level(logging.DEBUG):
        assert client.me().role == "read"
        with pytest.raises(ServiceError) as error:
            client.stop("asked")
    told = [repr(client), repr(vars(client)), repr(error.value), str(error.value), repr(error.value.more)]
    told += [record.getMessage() for record in caplog.records]
    told += [repr(vars(client._transport)), live.server.stderr]
    assert len(told) > 7
    assert not [words for words in told if secret in words]
    for end in ("\n", "\r\nX-Header:more", " more", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        with pytest.raises(ServiceError) as odd:
            Client(live.server.url, secret + end)
        assert (odd.value.kind, secret in str(odd.value)) == ("unauthenticated", False)

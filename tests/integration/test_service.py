"""A whole run on Fashion-MNIST over HTTP alone: started, watched, paused, labeled, and a server killed.

Of its 160 pictures 100 are labeled through the page in a real browser, the others through the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import safetensors.torch
import yaml

from dm2at_ray.models import ModelSpec
from dm2at_ray.store import RunDirectory

from ..service.page.visitor import Visitor
from .commands import Command
from .job_cluster import JobCluster, free_ports, job_cluster
from .served import FASHION, Caller, Follower, Labeler, Server, labeling_at_once, small_fashion_mnist

pytestmark = pytest.mark.skipif(
    not FASHION.is_dir(), reason="Fashion-MNIST is not installed (dataset-fashion-mnist)"
)

NAME = "clothes"
QUERIES = 80
ON_THE_PAGE = 50
"""Of each round's."""
SECONDS = 240

CONFIG: dict[str, Any] = {
    "model": {"batch_size": 64},
    "query": {"oracle": "files", "initial": QUERIES, "size": QUERIES},
    "neighbors": {"k": 3},
    "training": {"steps": 20, "batch_size": 32},
    "evaluation": {"pgd_steps": 2, "max_images": 200},
    "stop": {"rounds": 1},
    "compute": {"actors": 1},
    "monitoring": {"port": 0},
}


@dataclass(frozen=True)
class Played:
    """The run, when it is done.

    Attributes:
        cluster: Where it was played.
        caller: An operator.
        ann, bob: Who labeled through the API.
        carol: Who labeled on the page.
        follower: Who watched.
        run: The run directory.
        created: The answer to the first POST, and to the second.
        before, after: Labels of round 0 as the server that was killed has told of them, and the next one.
        known: Pixels -> true class.
    """

    cluster: JobCluster
    caller: Caller
    ann: Labeler
    bob: Labeler
    carol: Labeler
    follower: Follower
    run: RunDirectory
    created: tuple[requests.Response, requests.Response]
    before: int
    after: int
    known: dict[bytes, str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("service")
    known = small_fashion_mnist(folder / "data", pool=2000, test=400)
    tokens = {
        name: make_token(folder, name, role)
        for name, role in (("olga", "operate"), ("ann", "label"), ("bob", "label"), ("carol", "label"))
    }
    with job_cluster() as cluster:
        options = {
            "runs": folder / "runs",
            "address": cluster.url,
            "data": folder / "data",
            "tokens": folder / "tokens.yaml",
            # What a browser has before it when it is closed may only come free when its lease ends.
            "lease-seconds": 20,
        }
        with Server(folder, free_ports(1)[0], options, cluster.variables) as server:
            callers = {name: Caller(server.url, token, NAME) for name, token in tokens.items()}
            yield play(folder, cluster, server, callers, known, chromium)


def make_token(folder: Path, name: str, role: str) -> str:
    with Command(
        *("token", "new", name, "--role", role, "--tokens", folder / "tokens.yaml"), folder=folder
    ) as command:
        assert command.end(60) == 0, command.stderr
        return command.stdout.strip()


def label_on_the_page(browser: Any, labeler: Labeler) -> None:
    """Log in, label some pictures by keys, and leave; the page's own rules are kept."""
    visitor = Visitor(browser, labeler.caller.url)
    visitor.label_run(NAME, labeler.caller.token)

    def name_of(sample: int) -> str:
        labeler.said[sample] = labeler.look(sample)
        return str(labeler.said[sample])

    assert len(visitor.label(ON_THE_PAGE, name_of)) == ON_THE_PAGE
    visitor.leave()


def play(
    folder: Path,
    cluster: JobCluster,
    server: Server,
    callers: dict[str, Caller],
    known: dict[bytes, str],
    browser: Any,
) -> Played:
    olga = callers["olga"]
    ann, bob, carol = (Labeler(callers[name], known) for name in ("ann", "bob", "carol"))
    data = {"source": "fashion_mnist", "path": str(folder / "data")}
    wanted = {"name": NAME, "config": yaml.safe_dump({**CONFIG, "data": data})}
    created = olga.answer("/runs", "POST", wanted), olga.answer("/runs", "POST", wanted)
    with Follower(olga) as follower:
        follower.wait("round 0", SECONDS, awaiting=0)
        # Two people label some; then the server dies in the moment in which a label is acknowledged.
        ann.label(10)
        for query in bob.lease(10)["queries"][:-1]:
            bob.say(query, bob.look(query["sample_id"]))
        (last,) = bob.lease(1)["queries"]
        bob.say(last, None)
        server.kill()
        before = len(ann.said) + len(bob.said)
        server.start()
        after = olga.ask(f"/runs/{NAME}/labels")["rounds"][0]["answered"]
        label_on_the_page(browser, carol)
        with labeling_at_once([ann, bob], SECONDS):
            pass
        # The next step starts by itself; it is paused while it is at work, and resumed.
        follower.wait("round 0's training", SECONDS, state="running", stage="train")
        paused = olga.ask(f"/runs/{NAME}/pause", "POST")
        assert paused["state"] == "paused"
        follower.wait("the pause", SECONDS, state="paused")
        olga.ask(f"/runs/{NAME}/resume", "POST")
        follower.wait("round 1", SECONDS, awaiting=1)
        label_on_the_page(browser, carol)
        with labeling_at_once([ann, bob], SECONDS):
            pass
        follower.wait("the end", SECONDS, state="done")
    return Played(
        cluster,
        olga,
        ann,
        bob,
        carol,
        follower,
        RunDirectory(str(folder / "runs" / NAME)),
        created,
        before,
        after,
        known,
    )


def test_start__is_one_run_however_often_it_is_posted(played: Played) -> None:
    first, second = played.created
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["job"] == second.json()["job"]


def test_jobs__are_one_for_each_step_and_one_for_the_resume(played: Played) -> None:
    jobs = played.cluster.jobs(f"dm2at-{NAME}-")
    assert [job.split("-")[3:] for job in jobs] == [[], ["2"], ["3"], ["4"]]
    # The last one may be on its way out.
    assert list(jobs.values())[:3] == ["SUCCEEDED", "STOPPED", "SUCCEEDED"]
    assert played.caller.status()["job"] == max(jobs)


def test_events__tell_of_every_state_and_of_the_progress(played: Played) -> None:
    states = played.follower.states
    order = iter(states)
    wanted = [
        "running",
        "awaiting_labels",
        "running",
        "paused",
        "running",
        "awaiting_labels",
        "running",
        "done",
    ]
    assert all(state in order for state in wanted), states
    stages = {status["stage"] for status in played.follower.heard}
    assert {"train", "embed"} <= stages
    answered = [status["awaiting"]["answered"] for status in played.follower.heard if status["awaiting"]]
    assert len(set(answered)) > 4, "they move while people label"


def test_labels__that_were_acknowledged_outlive_the_server(played: Played) -> None:
    assert played.before == 20
    assert played.after == played.before


def test_labels__of_all_are_what_they_said_and_nobody_was_asked_twice(played: Played) -> None:
    said = {"ann": played.ann.said, "bob": played.bob.said, "carol": played.carol.said}
    everything = {sample: label for each in said.values() for sample, label in each.items()}
    assert sum(map(len, said.values())) == len(everything) == 2 * QUERIES
    assert len(played.carol.said) == 2 * ON_THE_PAGE
    status = played.caller.ask(f"/runs/{NAME}/labels")
    assert status["sources"] == {name: len(each) for name, each in said.items()}
    assert [round_["answered"] for round_ in status["rounds"]] == [QUERIES, QUERIES]
    assert [round_["skipped"] for round_ in status["rounds"]] == [1, 0]
    names = played.run.class_names()
    trained = {
        row["sample_id"]: None if row["label"] is None else names[row["label"]]
        for index in (0, 1)
        for row in played.run.round(index).labels().to_pylist()
    }
    assert trained == everything


def test_queries__of_round_1_are_led_up_to_by_the_model_of_round_0(played: Played) -> None:
    page = played.caller.ask(f"/runs/{NAME}/rounds/1/queries?limit={QUERIES}")
    assert [query["rank"] for query in page["queries"]] == list(range(QUERIES))
    for query in page["queries"][:3]:
        assert query["predicted"] in played.run.class_names()
        assert query["neighbors"]
        assert query["twin"]
        twin = played.caller.ask(f"/runs/{NAME}/samples/{query['sample_id']}/twin")
        assert twin.startswith(b"\x89PNG")


def test_metrics__of_both_rounds(played: Played) -> None:
    rounds = played.caller.ask(f"/runs/{NAME}/rounds")["rounds"]
    assert [each["round"] for each in rounds] == [0, 1]
    assert [each["metrics"]["labeled"] for each in rounds] == [QUERIES - 1, 2 * QUERIES - 1]
    for each in rounds:
        assert each["metrics"] == played.run.round(each["round"]).metrics()
        assert 0.1 < each["metrics"]["accuracy"]["clean"] <= 1, "more than by chance"
    status = played.caller.status()
    assert (status["state"], status["rounds_committed"], status["driver_lives"]) == ("done", 2, False)


def test_report__shows_the_run(played: Played) -> None:
    report = played.caller.answer(f"/runs/{NAME}/report")
    assert report.status_code == 200
    assert report.headers["content-type"].startswith("text/html")
    assert "sandbox" in report.headers["content-security-policy"]
    assert NAME in report.text


def test_model__is_what_the_last_round_has_trained(played: Played) -> None:
    weights = played.caller.ask(f"/runs/{NAME}/rounds/1/model")
    assert weights == played.run.round(1).files.read_bytes("model/model.safetensors")
    spec = played.caller.ask(f"/runs/{NAME}/rounds/1/model/spec")
    model = ModelSpec(**spec.get("spec", spec)).build(seed=0)
    model.load_state_dict(safetensors.torch.load(weights))


def test_intent__is_all_that_the_service_has_left_in_the_run(played: Played) -> None:
    intent = json.loads(played.run.files.read_bytes("service.json"))
    assert (intent["wanted"], intent["by"]) == ("running", "olga")

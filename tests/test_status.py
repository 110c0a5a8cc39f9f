"""Where a run is, from its files alone."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.status import read_status, status_lines
from dm2at_ray.store import Lease, RunDirectory
from dm2at_ray.uri import absolute_uri


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(str(tmp_path / "run"))
    directory.write_config(Config())
    return directory


def status(phase: str, **facts: object) -> dict[str, object]:
    return {
        "phase": phase,
        "round": 2,
        "stage": "",
        "labeled": 1250,
        "pool": 58750,
        "time": time.time(),
        **facts,
    }


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_read_status__of_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run there") as refused:
        read_status(str(tmp_path / "none"))
    assert str(tmp_path / "none") in str(refused.value)


def test_read_status__before_the_first_word(run: RunDirectory) -> None:
    found = read_status(run.uri)
    assert (found["phase"], found["live"], found["rounds"]) == ("starting", False, [])


def test_read_status__what_the_driver_left(run: RunDirectory) -> None:
    run.round(0).write_metrics({"round": 0, "labeled": 100})
    run.round(0).commit()
    run.round(1).write_metrics({"round": 1, "labeled": 200})
    run.write_status(status("done", reason="all 2 query rounds are done", time=time.time() - 90))
    found = read_status(run.uri)
    assert found["rounds"] == [{"round": 0, "labeled": 100}], "committed ones only"
    assert not found["live"]
    assert found["seconds_ago"] == pytest.approx(90, abs=5)
    json.dumps(found)


def test_read_status__a_path_relative_to_where_one_stands(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(run.uri).parent)
    run.write_status(status("done"))
    assert read_status("run")["phase"] == "done"


def test_read_status__a_driver_that_answers_no_more(run: RunDirectory) -> None:
    run.write_status(status("training", stage="train"))
    Lease(run.files, "gone", {"address": closed_port(), "auth_mode": ""}).acquire()
    before = time.monotonic()
    found = read_status(run.uri)
    assert (found["phase"], found["live"]) == ("training", False)
    assert time.monotonic() - before < 5


def test_read_status__a_driver_that_left_no_address(run: RunDirectory) -> None:
    run.write_status(status("training"))
    Lease(run.files, "somebody").acquire()
    assert not read_status(run.uri)["live"]


def test_read_status__a_driver_whose_lease_ran_out_is_not_asked(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    run.write_status(status("training"))
    contact = {"address": "127.0.0.1:1", "auth_mode": ""}
    Lease(run.files, "gone", contact, now=lambda: time.time() - 3600).acquire()
    monkeypatch.setattr("dm2at_ray.local_ray.has_node_here", refuse)
    assert not read_status(run.uri)["live"]


def test_read_status__joins_no_cluster_that_has_no_node_here(run: RunDirectory) -> None:
    run.write_status(status("training", stage="train"))
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        address = f"127.0.0.1:{somebody.getsockname()[1]}"
        contact = {"address": address, "auth_mode": ""}
        Lease(run.files, "elsewhere", contact).acquire()
        lease = run.files.read_json("driver.json")
        run.files.write_json("driver.json", lease | {"host": "head"})
        found = read_status(run.uri)
        somebody.setblocking(False)
        with pytest.raises(BlockingIOError):
            # A stranger's run directory may name any address, and whoever joins a cluster runs what it sends.
            somebody.accept()
    assert (found["live"], found["driver_host"]) == (False, "head")
    (line,) = status_lines(found)[2:]
    assert line == "a driver on head works on it, which cannot be asked from here (last word 0 s ago)"


def test_status_lines__a_driver_at_work() -> None:
    found = status("selecting", stage="embed", live=True, done=1000, total=58750, unit="images")
    found |= {"seconds_ago": 0.0, "metrics_url": "http://127.0.0.1:9464/metrics"}
    assert status_lines(found) == [
        "selecting: round 2, embed, 1,000 of 58,750 images",
        "1,250 labeled, 58,750 unlabeled",
        "metrics: http://127.0.0.1:9464/metrics",
    ]


def test_status_lines__a_driver_elsewhere_writes_how_far_it_is() -> None:
    found = status("training", stage="train", live=False, done=3, total=8, unit="steps", seconds_ago=1.0)
    assert status_lines(found | {"driver_host": "head"})[0] == "training: round 2, train, 3 of 8 steps"
    assert status_lines(found | {"driver_host": None})[0] == "training: round 2, train", "nobody goes on"


def test_status_lines__between_stages() -> None:
    found = status("training", live=True, done=0, total=0, unit="images", seconds_ago=0.0)
    assert status_lines(found)[0] == "training: round 2"


def test_status_lines__a_run_whose_driver_is_gone() -> None:
    found = status(
        "training", stage="train", live=False, seconds_ago=130.4, metrics_url="http://127.0.0.1:1/"
    )
    assert status_lines(found) == [
        "training: round 2, train",
        "1,250 labeled, 58,750 unlabeled",
        "no driver answers (last word 130 s ago): `dm2at run` goes on from there",
    ]


@pytest.mark.parametrize("phase", ["done", "failed"])
def test_status_lines__an_ended_run_says_why(phase: str) -> None:
    found = status(phase, reason="the pool is empty", live=False, seconds_ago=500.0)
    assert status_lines(found) == [f"{phase}: the pool is empty", "1,250 labeled, 58,750 unlabeled"]


def test_status_lines__before_anything_is_known() -> None:
    found = {"phase": "starting", "round": 0, "stage": "", "live": False, "seconds_ago": 1.0}
    assert status_lines(found)[0] == "starting: round 0"
    assert len(status_lines(found)) == 2


def test_absolute_uri__local_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute_uri("runs/a") == str(tmp_path / "runs" / "a")
    assert absolute_uri("~/runs") == str(tmp_path / "home" / "runs")
    assert absolute_uri("/runs/a") == "/runs/a"
    assert absolute_uri("gs://bucket/run") == "gs://bucket/run"

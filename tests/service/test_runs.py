"""Runs as their directories tell of them: pages, names, links, and where each stands."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.client.schemas import Round
from dm2at_ray.config import Config
from dm2at_ray.service import folder
from dm2at_ray.service import runs as module
from dm2at_ray.service.intent import Intent, write_intent
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.runs import Runs
from dm2at_ray.store import Lease, RunDirectory

from ..conftest import Bucket
from .job_api import JobApi

NOW = 1_790_000_000.0


def make_run(root: Path | str, name: str, phase: str = "", **status: Any) -> RunDirectory:
    """A run as a driver leaves it."""
    directory = RunDirectory(f"{root}/{name}")
    directory.write_config(Config.from_mapping({"name": name}))
    if phase:
        said = {"phase": phase, "round": 1, "stage": "", "labeled": 60, "pool": 1377, "time": NOW}
        directory.write_status({**said, **status})
    return directory


def make_intent(**fields: Any) -> Intent:
    return Intent(**{"wanted": "running", "advance": True, "config": "x", "by": "ann", "time": NOW, **fields})


def all_names(runs: Runs, limit: int) -> list[str]:
    names: list[str] = []
    after: str | None = None
    while True:
        page, after = runs.page(after, limit)
        assert len(page) <= limit
        names += page
        if after is None:
            return names


def test_page__has_the_runs_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a-2", "C", "a", "a_1"):
        make_run(tmp_path, name)
    runs = Runs(str(tmp_path))
    assert runs.page(None, 2) == (["C", "a"], "a")
    assert runs.page("a", 2) == (["a-2", "a_1"], "a_1")
    assert runs.page("a_1", 2) == (["b"], None)
    assert runs.page("b", 2) == ([], None)
    assert runs.page("a", 4) == (["a-2", "a_1", "b"], None)


def test_page__passes_over_what_is_no_run(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    make_run(root, "mine")
    make_run(root, "named.otherwise")
    for name in (".hidden", "line\n"):
        (root / name).mkdir()
        (root / name / "config.yaml").touch()
    (root / "notes.txt").write_text("notes")
    (root / "file").write_text("a name that a run may have")
    (root / "empty").mkdir()
    (root / "folder" / "config.yaml").mkdir(parents=True)
    outside = make_run(tmp_path, "outside")
    (root / "link").symlink_to(outside.uri)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    (root / "up").symlink_to(root)
    (root / "asked").mkdir()
    write_intent(RunDirectory(str(root / "asked")).files, make_intent())
    runs = Runs(str(root))
    assert all_names(runs, 10) == ["asked", "mine"]
    for name in ("link", "dangling", "loop", "up", "empty", "file", "folder", "named.otherwise", "line\n"):
        with pytest.raises(ProblemError) as refused:
            runs.directory(name)
        assert refused.value.kind == "unknown-run"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../runs/mine", "mine/", "mine\n", "a/../mine", "/etc", "mine\0", "x" * 101, "mïne"],
)
def test_directory__is_opened_under_a_runs_name_only(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "runs", "mine")
    runs = Runs(str(tmp_path / "runs"))
    assert runs.directory("mine").config().name == "mine"
    with pytest.raises(ProblemError) as refused:
        runs.directory(name)
    assert refused.value.kind == "unknown-run"


def test_page__of_a_root_that_is_not_there_yet(tmp_path: Path) -> None:
    assert Runs(str(tmp_path / "later")).page(None, 10) == ([], None)


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_page__chunks_meet(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "CHUNK_NAMES", 5)
    names = [f"run-{index:02d}" for index in range(37)]
    for name in names:
        make_run(tmp_path, name)
    for index in range(40):
        (tmp_path / f"foreign-{index}").mkdir()
    assert all_names(Runs(str(tmp_path)), limit) == names


def test_page__memory_does_not_grow_with_the_number_of_runs(tmp_path: Path) -> None:
    peaks = []
    root = tmp_path / "runs"
    made = 0
    for count in (2000, 6000):
        for index in range(made, count):
            folder = root / f"run-{index:05d}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").touch()
        made = count
        runs = Runs(str(root))
        runs.page(None, 50)
        tracemalloc.start()
        page, _ = runs.page("run-00100", 50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert page == [f"run-{index:05d}" for index in range(101, 151)]
    assert peaks[1] < 1.3 * peaks[0]


def test_page__and_status_on_an_object_store(bucket: Bucket) -> None:
    root = f"s3://{bucket.name}/team/runs"
    for name in ("b", "a", "c"):
        make_run(root, name, "done", reason="enough")
    bucket.put("team/runs/foreign/notes.txt", b"notes")
    bucket.put("team/runs/notes.txt", b"notes")
    runs = Runs(root + "/")
    assert runs.page(None, 2) == (["a", "b"], "b")
    assert runs.page("b", 2) == (["c"], None)
    assert runs.directory("a").uri == f"{root}/a"
    assert [run.state for run in runs.summaries(["a", "gone", "c"])] == ["done", "done"]
    status = runs.status("a", None)
    assert (status.state, status.reason, status.labeled) == ("done", "enough", 60)


def test_place__of_a_store_with_options(bucket: Bucket) -> None:
    root = f"s3://{bucket.name}/runs?region=us-east-1"
    runs = Runs(root)
    assert runs.folder.place("mine").uri == f"s3://{bucket.name}/runs/mine?region=us-east-1"
    runs.folder.place("mine").write_config(Config())
    assert RunDirectory(runs.folder.place("mine").uri).config() == Config()


def test_storage_that_does_not_answer(bucket: Bucket) -> None:
    runs = Runs(f"s3://{bucket.name}/runs")
    make_run(f"s3://{bucket.name}/runs", "mine", "done")
    bucket.check_keys(True)
    try:
        calls: list[Callable[[], object]] = [
            lambda: runs.page(None, 2),
            lambda: runs.status("mine", None),
            lambda: runs.summaries(["mine"]),
            lambda: runs.rounds("mine", None, 2),
            lambda: runs.config_yaml("mine"),
        ]
        for call in calls:
            with pytest.raises(ProblemError) as refused:
                call()
            assert refused.value.kind == "unreachable"
    finally:
        bucket.check_keys(False)


def test_summary__before_the_first_word(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "mine")
    os.utime(directory.files.path("config.yaml"), (NOW, NOW))
    summary = Runs(str(tmp_path)).summary("mine")
    assert (summary.state, summary.round, summary.labeled) == ("interrupted", 0, 0)
    assert summary.time.timestamp() == NOW
    assert summary.time.tzinfo is timezone.utc


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"phase": 1, "time": "x", "round": -1, "pool": true}', "\xff"]
)
@pytest.mark.parametrize("name", ["status.json", "driver.json", "service.json"])
def test_status__of_files_that_no_driver_wrote(tmp_path: Path, name: str, text: str) -> None:
    directory = make_run(tmp_path, "mine")
    Path(directory.uri, name).write_text(text, encoding="latin-1")
    assert Runs(str(tmp_path)).status("mine", None).state == "interrupted"


def test_status__of_a_driver_at_work_elsewhere(tmp_path: Path) -> None:
    directory = make_run(
        tmp_path, "mine", "training", stage="train", done=3, total=8, unit="steps", rejected=0
    )
    directory.write_class_names(["cat", "dog"])
    Lease(directory.files, "somebody", now=lambda: NOW).acquire()
    for index in range(3):
        directory.round(index).begin(100)
    for index in range(2):
        directory.round(index).commit()
    status = Runs(str(tmp_path), now=lambda: NOW + 30).status("mine", None)
    assert (status.state, status.stage, status.done, status.total) == ("running", "train", 3, 8)
    assert (status.unit, status.labeled, status.unlabeled) == ("steps", 60, 1377)
    assert (status.rounds_committed, status.classes) == (2, ["cat", "dog"])
    assert (status.driver_lives, status.job, status.advance, status.reason) == (True, None, False, "")
    later = Runs(str(tmp_path), now=lambda: NOW + 61).status("mine", None)
    assert (later.state, later.stage, later.driver_lives) == ("interrupted", "", False)


def test_status__of_a_driver_that_was_killed_on_this_machine(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "mine", "training", stage="train")
    Lease(directory.files, "somebody").acquire()
    runs = Runs(str(tmp_path))
    assert runs.status("mine", None).state == "running"
    lease = directory.files.read_json("driver.json")
    directory.files.write_json("driver.json", {**lease, "pid": 2**22 + 1})
    assert runs.status("mine", None).state == "interrupted"


def test_status__of_a_round_that_awaits_labels(tmp_path: Path) -> None:
    make_run(tmp_path, "mine", "awaiting_labels", reason="labels of 40 queries of round 1, 0 are there")
    awaiting = Round(round=1, asked=40, answered=7, skipped=1, leased=2, needed=30, accepted=False, open=True)
    runs = Runs(str(tmp_path))
    status = runs.status("mine", awaiting)
    assert (status.state, status.awaiting) == ("awaiting_labels", awaiting)
    assert status.reason == "labels of 30 of 40 queries of round 1, 7 are there"
    make_run(tmp_path, "mine", "done", reason="enough")
    assert runs.status("mine", awaiting).awaiting is None


def test_status__says_what_a_job_said_that_failed_before_its_driver_spoke(tmp_path: Path) -> None:
    api = JobApi()
    directory = RunDirectory(f"{tmp_path}/mine")
    write_intent(directory.files, make_intent(job="dm2at-mine"))
    api.set("dm2at-mine", "FAILED", "exit code 2, last available logs:\ndata.path = /x: no such folder\n")
    status = Runs(str(tmp_path), api.service()).status("mine", None)
    assert (status.state, status.reason) == ("failed", "data.path = /x: no such folder")
    assert status.job == "dm2at-mine"


def test_status__does_not_ask_the_cluster_where_the_files_know(tmp_path: Path) -> None:
    api = JobApi()
    for phase in ("done", "failed", "awaiting_labels"):
        directory = make_run(tmp_path, phase, phase)
        write_intent(directory.files, make_intent(job="dm2at-mine"))
    runs = Runs(str(tmp_path), api.service())
    assert {runs.status(phase, None).state for phase in ("done", "failed", "awaiting_labels")} == {
        "done",
        "failed",
        "awaiting_labels",
    }
    assert api.questions == 0


def test_rounds__are_the_committed_ones(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "mine")
    for index in range(4):
        directory.round(index).write_metrics({"round": index, "labeled": index})
        if index < 3:
            directory.round(index).commit()
    runs = Runs(str(tmp_path))
    page = runs.rounds("mine", None, 2)
    assert [(each.round, each.metrics["labeled"]) for each in page.rounds] == [(0, 0), (1, 1)]
    assert page.next == 1
    page = runs.rounds("mine", page.next, 2)
    assert ([each.round for each in page.rounds], page.next) == ([2], None)
    assert runs.rounds("mine", 7, 2).rounds == []


def test_config_yaml__is_there_before_the_driver_is(tmp_path: Path) -> None:
    write_intent(RunDirectory(f"{tmp_path}/mine").files, make_intent(config="name: mine\n"))
    runs = Runs(str(tmp_path))
    assert runs.config_yaml("mine") == "name: mine\n"
    make_run(tmp_path, "mine")
    assert runs.config_yaml("mine") == Config.from_mapping({"name": "mine"}).to_yaml()


def test_facts__of_a_store_are_kept_for_a_moment_and_read_anew_when_asked(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"s3://{bucket.name}/runs"
    directory = make_run(root, "mine", "training")
    monkeypatch.setattr(module, "STORE_SECONDS", 60.0)
    runs = Runs(root)
    assert runs.facts("mine").word.phase == "training"
    bucket.put("runs/mine/status.json", json.dumps({**directory.status(), "phase": "done"}).encode())
    assert runs.facts("mine").word.phase == "training"
    assert runs.facts("mine", fresh=True).word.phase == "done"
    assert runs.facts("mine").word.phase == "done"

"""What the driver tells the world."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.config import Config
from dm2at_ray.journal import Journal, costs_by_kind
from dm2at_ray.store import RunDirectory

CLASSES = ["cat", "dog"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


@pytest.fixture
def journal(run: RunDirectory) -> Journal:
    return Journal(run, Config.from_mapping({"name": "mine", "stop": {"rounds": 5}}), CLASSES)


def sample(journal: Journal, name: str, **labels: str) -> float | None:
    return journal.metrics.registry.get_sample_value(name, {"run": "mine", **labels})


def round_metrics(index: int) -> dict[str, Any]:
    return {
        "round": index,
        "labeled": 10,
        "pool": 90,
        "rejected": 0,
        "accuracy": {"clean": 0.5},
        "stage_seconds": {"embed": 2.0},
        "stage_images": {"embed": 100},
    }


def test_phase__is_written_and_counted(run: RunDirectory, journal: Journal) -> None:
    journal.sizes(labeled=10, pool=90, rejected=1)
    journal.phase("selecting", round=2, stage="embed")
    status = run.status()
    assert {key: status[key] for key in ("phase", "round", "stage", "labeled", "pool", "rejected")} == {
        "phase": "selecting",
        "round": 2,
        "stage": "embed",
        "labeled": 10,
        "pool": 90,
        "rejected": 1,
    }
    assert time.time() - status["time"] < 60
    assert sample(journal, "dm2at_phase", phase="selecting") == 1
    assert sample(journal, "dm2at_round") == 2


def test_phase__facts_stay_until_they_are_said_anew(run: RunDirectory, journal: Journal) -> None:
    journal.phase("starting", metrics_url="http://127.0.0.1:1/metrics", pid=7)
    journal.phase("training", round=1)
    assert run.status()["metrics_url"] == "http://127.0.0.1:1/metrics"
    assert run.status()["phase"] == "training"


@pytest.mark.parametrize(
    ("stage", "phase"),
    [("embed", "selecting"), ("craft", "selecting"), ("train", "training"), ("evaluate", "training")],
)
def test_stage__belongs_to_a_phase(run: RunDirectory, journal: Journal, stage: str, phase: str) -> None:
    with journal.stage(run.round(3), stage):
        status = run.status()
        assert (status["phase"], status["round"], status["stage"]) == (phase, 3, stage)
    assert journal.status()["stage"] == ""


def test_stage__before_the_rounds_is_the_start(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(None, "list pool"):
        assert run.status()["phase"] == "starting"
    assert run.rounds() == []


def test_stage__notes_its_cost_in_the_round_and_in_the_metrics(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(1), "embed") as progress:
        progress(40, 100)
        time.sleep(0.02)
        progress(100, 100)
    cost = run.round(1).stage_costs()["embed"]
    assert cost["images"] == 100
    assert 0.02 <= cost["seconds"] < 10
    assert sample(journal, "dm2at_stage_images_total", stage="embed") == 100
    seconds = sample(journal, "dm2at_stage_seconds_total", stage="embed")
    assert seconds == pytest.approx(cost["seconds"], abs=1e-3)


def test_stage__that_fails_costs_nothing(run: RunDirectory, journal: Journal) -> None:
    with pytest.raises(ZeroDivisionError), journal.stage(run.round(1), "embed"):
        _ = 1 / 0
    assert run.round(1).stage_costs() == {}
    assert journal.snapshot().finished == ()


def test_snapshot__shows_the_stage_in_progress_then_its_line(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(1), "train", unit="steps") as progress:
        assert journal.snapshot().total is None, "not known yet"
        progress(3, 8)
        now = journal.snapshot()
        assert (now.round, now.rounds, now.stage) == (1, 5, "train")
        assert (now.done, now.total, now.unit) == (3, 8, "steps")
        live = journal.status()
        assert (live["stage"], live["done"], live["total"], live["unit"]) == ("train", 3, 8, "steps")
    with journal.stage(run.round(1), "evaluate") as progress:
        assert (journal.snapshot().done, journal.snapshot().unit) == (0, "images")
        progress(20, 20)
    lines = journal.snapshot().finished
    assert [(line.sequence, line.round, line.stage, line.images) for line in lines] == [
        (1, 1, "train", 3),
        (2, 1, "evaluate", 20),
    ]


def test_snapshot__tells_one_driver_from_the_next(run: RunDirectory, journal: Journal) -> None:
    again = Journal(run, Config(), CLASSES)
    assert journal.snapshot().driver == journal.snapshot().driver
    assert journal.snapshot().driver != again.snapshot().driver


def test_notice__is_shown_once_said(journal: Journal) -> None:
    journal.notice("metrics: http://127.0.0.1:9464/metrics")
    assert journal.snapshot().notices == ("metrics: http://127.0.0.1:9464/metrics",)


def test_close__has_the_last_word(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(1), "embed"):
        journal.close("interrupted")
        journal.phase("training", round=1)
    status = run.status()
    assert (status["phase"], status["stage"]) == ("interrupted", "")


def test_close__is_not_overtaken_by_a_word_on_its_way(
    run: RunDirectory, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is held up while it writes status.json; another closes meanwhile."""
    write = RunDirectory.write_status
    begun = threading.Event()

    def slow(self: RunDirectory, status: dict[str, Any]) -> None:
        if status["phase"] == "training":
            begun.set()
            time.sleep(0.2)
        write(self, status)

    monkeypatch.setattr(RunDirectory, "write_status", slow)
    speaker = threading.Thread(target=journal.phase, args=("training",))
    speaker.start()
    assert begun.wait(5)
    assert journal.status()["phase"] == "training", "whoever asks need not wait for the disk"
    journal.close("interrupted")
    speaker.join()
    assert run.status()["phase"] == "interrupted"


@pytest.fixture
def hasty(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal that writes the progress of a stage every hundredth of a second."""
    monkeypatch.setattr("dm2at_ray.journal.TELL_SECONDS", 0.01)
    return Journal(run, Config.from_mapping({"name": "mine"}), CLASSES)


def wait_until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_stage__tells_in_status_json_how_far_it_is(run: RunDirectory, hasty: Journal) -> None:
    with hasty.stage(run.round(1), "train", unit="steps") as progress:
        began = run.status()
        assert (began["done"], began["total"], began["unit"]) == (0, 0, "steps")
        progress(3, 8)
        wait_until(lambda: run.status()["done"] == 3)
        told = run.status()
        assert (told["phase"], told["stage"], told["done"], told["total"]) == ("training", "train", 3, 8)
        assert told["time"] > began["time"]
    with hasty.stage(run.round(1), "evaluate"):
        assert (run.status()["done"], run.status()["unit"]) == (0, "images"), "nothing of the stage before"
    hasty.close("done", reason="enough")
    assert (run.status()["done"], run.status()["total"]) == (0, 0)


def test_stage__writes_nothing_where_nothing_moves(
    run: RunDirectory, hasty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = count_writes(monkeypatch)
    with hasty.stage(run.round(1), "embed") as progress:
        progress(5, 10)
        wait_until(lambda: len(written) == 2)
        time.sleep(0.1)
    assert [word["done"] for word in written] == [0, 5]


def test_stage__says_no_more_when_it_is_over(
    run: RunDirectory, hasty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = count_writes(monkeypatch)
    with hasty.stage(run.round(1), "embed") as progress:
        progress(5, 10)
    hasty.close("interrupted")
    last = len(written)
    time.sleep(0.1)
    assert len(written) == last
    assert run.status()["phase"] == "interrupted"


def test_stage__says_no_more_after_the_last_word(
    run: RunDirectory, hasty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is torn down while it still counts, as by a signal."""
    written = count_writes(monkeypatch)
    with hasty.stage(run.round(1), "embed") as progress:
        progress(5, 10)
        wait_until(lambda: len(written) == 2)
        hasty.close("interrupted")
        progress(6, 10)
        time.sleep(0.1)
        assert len(written) == 3
        status = run.status()
    assert (status["phase"], status["stage"], status["done"]) == ("interrupted", "", 0)


def test_stage__goes_on_where_its_progress_cannot_be_written(
    run: RunDirectory, hasty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    write = RunDirectory.write_status

    def full(self: RunDirectory, status: dict[str, Any]) -> None:
        if status["done"] == 5 and not failed.is_set():
            failed.set()
            raise OSError("the disk is full")
        write(self, status)

    monkeypatch.setattr(RunDirectory, "write_status", full)
    with hasty.stage(run.round(1), "embed") as progress:
        progress(5, 10)
        assert failed.wait(10)
        # It is tried again.
        wait_until(lambda: run.status()["done"] == 5)
    assert run.round(1).stage_costs()["embed"]["images"] == 5


def test_stage__is_not_held_up_by_a_slow_store(
    run: RunDirectory, hasty: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, may_end = threading.Event(), threading.Event()
    write = RunDirectory.write_status

    def slow(self: RunDirectory, status: dict[str, Any]) -> None:
        if status["done"]:
            writing.set()
            assert may_end.wait(10)
        write(self, status)

    monkeypatch.setattr(RunDirectory, "write_status", slow)
    with hasty.stage(run.round(1), "embed") as progress:
        progress(5, 10)
        assert writing.wait(10)
        for done in range(6, 11):
            progress(done, 10)
        assert hasty.status()["done"] == 10, "the stage is through while its word is on its way"
        may_end.set()


def count_writes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    write = RunDirectory.write_status

    def counted(self: RunDirectory, status: dict[str, Any]) -> None:
        write(self, status)
        written.append(status)

    monkeypatch.setattr(RunDirectory, "write_status", counted)
    return written


def test_restore__counts_go_on_where_they_stood(run: RunDirectory, journal: Journal) -> None:
    for index in (0, 1):
        run.round(index).write_metrics(round_metrics(index))
        run.round(index).commit()
    run.round(2).add_stage_cost("embed", 3.0, 80)
    journal.restore()
    assert sample(journal, "dm2at_rounds_committed_total") == 2
    assert sample(journal, "dm2at_stage_images_total", stage="embed") == 280
    assert sample(journal, "dm2at_stage_seconds_total", stage="embed") == pytest.approx(7.0)


def test_committed__counts_no_stage_twice(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(0), "embed") as progress:
        progress(100, 100)
    costs = costs_by_kind(run.round(0).stage_costs())
    journal.committed({**round_metrics(0), **costs})
    assert sample(journal, "dm2at_stage_images_total", stage="embed") == 100
    assert sample(journal, "dm2at_accuracy_ratio", attack="clean") == 0.5


def test_costs_by_kind__as_metrics_json_has_it() -> None:
    costs = {"embed": {"seconds": 1.5, "images": 10}, "train": {"seconds": 2.0, "images": 3}}
    assert costs_by_kind(costs) == {
        "stage_seconds": {"embed": 1.5, "train": 2.0},
        "stage_images": {"embed": 10, "train": 3},
        "stage_images_by_node": {},
    }


def test_stage__counts_images_by_the_node_that_did_them(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(0), "embed") as progress:
        progress(60, 100, "10.0.0.1")
        progress(90, 100, "10.0.0.2")
        assert sample(journal, "dm2at_node_images_per_second", stage="embed", node="10.0.0.2")
        assert sample(journal, "dm2at_node_images_total", stage="embed", node="10.0.0.2") is None
        progress(100, 100, "10.0.0.1")
    assert sample(journal, "dm2at_node_images_total", stage="embed", node="10.0.0.1") == 70
    assert sample(journal, "dm2at_node_images_total", stage="embed", node="10.0.0.2") == 30
    costs = costs_by_kind(run.round(0).stage_costs())
    assert costs["stage_images_by_node"] == {"embed": {"10.0.0.1": 70, "10.0.0.2": 30}}


def test_stage__a_second_pass_over_fewer_images_counts_alone(run: RunDirectory, journal: Journal) -> None:
    with journal.stage(run.round(0), "score") as progress:
        progress(1000, 1000, "10.0.0.1")
        progress(40, 100, "10.0.0.2")
        progress(100, 100, "10.0.0.1")
    assert run.round(0).stage_costs()["score"]["nodes"] == {"10.0.0.2": 40, "10.0.0.1": 60}


def test_labels_awaited__since_the_first_driver_that_asked(run: RunDirectory, journal: Journal) -> None:
    assert sample(journal, "dm2at_labels_awaited_since_timestamp_seconds") == 0
    journal.phase("awaiting_labels", round=3)
    since = sample(journal, "dm2at_labels_awaited_since_timestamp_seconds")
    assert since is not None
    assert abs(since - time.time()) < 60
    again = Journal(run, Config.from_mapping({"name": "mine"}), CLASSES)
    again.phase("awaiting_labels", round=3)
    assert sample(again, "dm2at_labels_awaited_since_timestamp_seconds") == since
    again.phase("selecting", round=3)
    assert sample(again, "dm2at_labels_awaited_since_timestamp_seconds") == 0


def test_restore__seconds_are_those_that_were_shown(run: RunDirectory, journal: Journal) -> None:
    for _ in range(3):
        with journal.stage(run.round(0), "embed") as progress:
            time.sleep(0.0007)
            progress(1, 1)
        shown = sample(journal, "dm2at_stage_last_seconds", stage="embed")
        again = Journal(run, Config.from_mapping({"name": "mine"}), CLASSES)
        again.restore()
        assert sample(again, "dm2at_stage_seconds_total", stage="embed") == shown

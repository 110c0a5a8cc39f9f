"""The benchmark of the service: its run, its labelers, its check of the log, its words."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.bench import serve_study as study
from dm2at_ray.bench.pool_images import CLASSES, draw_pictures
from dm2at_ray.bench.serve import requests_table, serve_notes
from dm2at_ray.bench.serve_checks import Faults, find_faults, served_twice
from dm2at_ray.bench.serve_labelers import JOB, LABEL, LEASE, PICTURE, RESULT, LabelersJob, LabelersResult
from dm2at_ray.bench.serve_labelers import main as label_in
from dm2at_ray.bench.serve_run import LABELED, NEIGHBORS, BenchRun, make_run
from dm2at_ray.bench.serve_study import ServeBenchSettings, serve_study, serving, summary
from dm2at_ray.errors import ConfigError, RunError
from dm2at_ray.labeling import LabelBook, labels_status, query_tasks
from dm2at_ray.pool.decode import decode
from dm2at_ray.service.tokens import new_token


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BenchRun:
    return make_run(tmp_path_factory.mktemp("made"), 20, 3, lambda line: None)


def test_make_run__awaits_labels_of_real_pictures(made: BenchRun) -> None:
    (first, second) = labels_status(made.directory)["rounds"]
    assert (first["asked"], first["labeled"], first["committed"]) == (LABELED, LABELED, True)
    assert (second["asked"], second["missing"], second["committed"]) == (20, 20, False)
    tasks = query_tasks(made.directory, made.directory.round(1))
    assert {task.sample_id for task in tasks} == set(made.truth)
    labeled = set(made.directory.round(0).query_ids().tolist())
    assert all(len(task.neighbors) == NEIGHBORS for task in tasks)
    assert {near.sample_id for task in tasks for near in task.neighbors} <= labeled
    drawn = draw_pictures(np.array([task.sample_id for task in tasks]), seed=3)
    assert [made.truth[task.sample_id] for task in tasks] == [CLASSES[label] for label in drawn.labels]
    for task, pixels in zip(tasks, drawn.pixels, strict=True):
        name = f"rounds/0001/export-csv/pictures/{task.sample_id}.jpg"
        shown = decode(made.directory.files.read_bytes(name), 32, 3)
        assert np.abs(shown.astype(float) - pixels).mean() < 20, "JPEG is lossy"


def test_make_run__depends_on_the_seed(made: BenchRun, tmp_path: Path) -> None:
    for seed in (3, 4):
        (tmp_path / str(seed)).mkdir()
        again = make_run(tmp_path / str(seed), 20, seed, lambda line: None)
        assert (again.truth == made.truth) == (seed == 3)


def test_served_twice__only_while_the_lease_lives() -> None:
    ann, bob = (1, "ann", 0.0, 9.0), (1, "bob", 8.0, 17.0)
    assert served_twice([bob, ann]) == 1
    assert served_twice([ann, (1, "bob", 9.0, 18.0), (2, "bob", 1.0, 10.0)]) == 0
    renewed = (1, "ann", 7.0, 16.0)
    assert served_twice([ann, renewed, (1, "bob", 10.0, 19.0)]) == 1


def test_find_faults__by_the_log(made: BenchRun, tmp_path: Path) -> None:
    run = make_run(tmp_path, 20, 3, lambda line: None)
    ids = sorted(run.truth)

    def write(labels: dict[int, str], who: str) -> None:
        rounds = pa.array([1] * len(labels), pa.int32())
        table = pa.table({"sample_id": list(labels), "label": list(labels.values()), "round": rounds})
        LabelBook(run.directory).append(table, who)

    write({each: run.truth[each] for each in ids[:10]}, "ann")
    result = LabelersResult(acknowledged=[(each, "ann") for each in ids[:10]])
    faults = find_faults(run.directory, run.truth, result)
    assert faults == Faults(served_twice=0, lost=0, doubled=0, unanswered=10, wrong=0)
    assert faults.any
    write({each: run.truth[each] for each in ids[10:]}, "bob")
    result.acknowledged += [(each, "bob") for each in ids[10:]]
    assert not find_faults(run.directory, run.truth, result).any
    # Reported as written by somebody whose word is not there; there, but not reported.
    result.acknowledged[0] = (ids[0], "eve")
    faults = find_faults(run.directory, run.truth, result)
    assert (faults.lost, faults.wrong, faults.doubled) == (1, 1, 0)
    result.acknowledged[0] = (ids[0], "ann")
    other = next(name for name in CLASSES if name != run.truth[ids[0]])
    write({ids[0]: other}, "ann")
    faults = find_faults(run.directory, run.truth, result)
    assert (faults.lost, faults.wrong, faults.doubled) == (0, 1, 1)


def test_summary__of_hand_made_numbers() -> None:
    assert summary([float(number) for number in range(101)]) == {
        "count": 101,
        "p50": 50.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert summary([])["max"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"labelers": 0}, "labelers=0 must be at least 1"),
        ({"queries": 0}, "queries=0 must be at least 1"),
        ({"think_ms": -1.0}, "think_ms=-1 must be 0 to 60,000"),
        ({"work": Path("/nowhere/at/all")}, "work=/nowhere/at/all: no such folder"),
    ],
)
def test_settings__refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        ServeBenchSettings(**wrong)  # type: ignore[arg-type]


def test_serve_study__labels_a_whole_round_over_http(tmp_path: Path) -> None:
    settings = ServeBenchSettings(labelers=4, queries=30, think_ms=1.0, work=tmp_path)
    said: list[str] = []
    report = serve_study(settings, said.append)
    assert report.faults == dict.fromkeys(("served_twice", "lost", "doubled", "unanswered", "wrong"), 0)
    counts = {kind: took["count"] for kind, took in report.requests.items()}
    assert counts[LABEL] == 30
    assert counts[LEASE] >= 4 + 30 / 5
    # Every query's own, and at most all the neighbours once for each labeler.
    assert 30 < counts[PICTURE] <= 30 + 4 * LABELED
    assert 500 < report.picture_bytes / counts[PICTURE] < 3000
    assert all(0 < took["p50"] <= took["p99"] <= took["max"] for took in report.requests.values())
    assert report.labels_per_second == pytest.approx(30 / report.seconds)
    assert 0 < report.log_files <= 30
    assert 50e6 < report.rss_bytes <= report.peak_rss_bytes
    assert report.server_cpu_seconds > 0 < report.labelers_cpu_seconds
    assert list(tmp_path.iterdir()) == [], "what was made is removed"
    json.dumps(dataclasses.asdict(report), allow_nan=False)
    words = "\n".join(serve_notes(report))
    assert "0 served twice, 0 lost, 0 doubled, 0 unanswered, 0 wrong" in words
    assert [column.header for column in requests_table(report).columns][1:] == [
        "requests",
        "p50",
        "p95",
        "p99",
        "max",
    ]


def test_labelers__who_are_refused_say_why(made: BenchRun, tmp_path: Path) -> None:
    folder = Path(made.directory.uri).parents[1]
    new_token(folder / "tokens.yaml", "ann", "label")
    with serving(folder, made) as (url, pid):
        os.kill(pid, 0)
        job = LabelersJob(url, "bench", {"eve": "dm2at_nonsense"}, made.truth, 0.0)
        (tmp_path / JOB).write_text(json.dumps(dataclasses.asdict(job)))
        label_in(tmp_path)
        with pytest.raises(RunError, match="a labeler was refused: RefusedError: GET labels: 401"):
            study._label(tmp_path, job, 120)
    assert "error" in json.loads((tmp_path / RESULT).read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_serving__says_why_there_is_no_server(made: BenchRun, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with (
        pytest.raises(RunError, match=r"the server does not come up: .*tokens\.yaml"),
        serving(tmp_path, made),
    ):
        pass

"""`dm2at run`, `status` and `report` on the digits: what people see and Prometheus scrapes meanwhile."""

from __future__ import annotations

import itertools
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dm2at_ray.store import RunDirectory

from .commands import Command, wait_for, write_config

STAGES = ["embed", "neighbors", "score", "craft", "label", "train", "evaluate"]
SELECTING = {"embed", "neighbors", "score", "craft", "label"}
SECONDS = 180


@dataclass(frozen=True)
class Watched:
    """A run that was looked at while it worked."""

    folder: Path
    run_dir: Path
    busy_port: int
    code: int
    stdout: str
    stderr: str
    statuses: list[dict[str, Any]]
    """Answers of `dm2at status --json` while it worked."""
    scrapes: list[str]
    """Texts of its metrics endpoint, in order."""
    metrics: list[dict[str, Any]]
    """metrics.json of its rounds."""

    def scraped(self, scrape: int = -1) -> dict[tuple[str, ...], float]:
        """A scrape as (series, *label values besides the run) -> value."""
        samples = [
            sample
            for family in text_string_to_metric_families(self.scrapes[scrape])
            for sample in family.samples
            if sample.name.startswith("dm2at_")
        ]
        assert {sample.labels["run"] for sample in samples} == {"tiny"}
        return {
            (s.name, *(value for label, value in sorted(s.labels.items()) if label != "run")): s.value
            for s in samples
        }


@pytest.fixture(scope="module")
def watched(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    run_dir = folder / "run"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        busy_port = listener.getsockname()[1]
        config = write_config(folder / "tiny.yaml", stop={"rounds": 2}, monitoring={"port": busy_port})
        statuses: list[dict[str, Any]] = []
        scrapes: list[str] = []
        with Command("run", config, "--run-dir", run_dir, folder=folder, address=ray_address) as command:

            def look() -> bool:
                url = re.search(r"^metrics: (\S+)", command.stdout, re.MULTILINE)
                if url:
                    scrapes.extend(_scrape(url[1]))
                return command.process.poll() is not None

            wait_for("the first stage of round 0", lambda: look() or "label " in command.stdout, SECONDS)
            while command.process.poll() is None and not _shows_a_stage(statuses):
                with Command("status", run_dir, "--json", folder=folder) as asked:
                    wait_for("an answer", lambda: look() or asked.process.poll() is not None, SECONDS)
                    if asked.end(SECONDS) == 0:
                        statuses.append(json.loads(asked.stdout))
            wait_for("the end of the run", look, SECONDS)
            code = command.end(SECONDS)
            metrics = [r.metrics() for r in RunDirectory(str(run_dir)).committed_rounds()]
            yield Watched(
                folder, run_dir, busy_port, code, command.stdout, command.stderr, statuses, scrapes, metrics
            )


def _shows_a_stage(statuses: list[dict[str, Any]]) -> bool:
    return any(status["live"] and status["stage"] and status["round"] > 0 for status in statuses)


def _scrape(url: str) -> list[str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return [reply.read().decode()]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return []


@pytest.mark.ray
def test_run__prints_one_line_a_stage_then_the_tables_and_where_the_report_is(watched: Watched) -> None:
    assert watched.code == 0, watched.stderr
    lines = watched.stdout.splitlines()
    assert lines[0] == f"run directory: {watched.run_dir}"
    stages = [
        (int(m[1]), m[2]) for m in (re.match(r"round (\d)/2  (list \w+|\w+) +.+ in ", x) for x in lines) if m
    ]
    assert stages == [
        *((0, name) for name in ("list pool", "list test", "score", "label", "train", "evaluate")),
        *((round_, name) for round_ in (1, 2) for name in STAGES),
    ]
    first_line_after_stages = next(i for i, x in enumerate(lines) if x.split()[:2] == ["round", "labels"])
    table = [line.split() for line in lines[first_line_after_stages + 2 :][:3]]
    assert [row[:2] for row in table] == [["0", "40"], ["1", "60"], ["2", "80"]]
    for row, metrics in zip(table, watched.metrics, strict=True):
        assert row[2] == f"{100 * metrics['accuracy']['clean']:.1f}"
    costs = next(i for i, line in enumerate(lines) if line.strip() == "seconds by stage")
    assert lines[costs + 1].split() == ["round", *STAGES, "sum"]
    assert [line.split()[0] for line in lines[costs + 3 : costs + 6]] == ["0", "1", "2"]
    assert any(line.split()[:1] == ["mean"] for line in lines[costs:])
    assert lines[-3:] == [
        "done: all 2 query rounds are done",
        f"run directory: {watched.run_dir}",
        f"report: {watched.run_dir}/report.html",
    ]


@pytest.mark.ray
def test_run__keeps_the_chatter_of_ray_to_its_log_files(watched: Watched) -> None:
    assert watched.stderr == ""
    assert not re.search(r"\b(INFO|WARNING|pid=|ray::|raylet|Dataset|TorchTrainer)\b", watched.stdout)


@pytest.mark.ray
def test_run__says_that_the_metrics_port_is_busy_and_takes_another(watched: Watched) -> None:
    said = re.search(
        r"^metrics: http://127\.0\.0\.1:(\d+)/metrics \(port (\d+) is busy\)$", watched.stdout, re.M
    )
    assert said
    assert int(said[2]) == watched.busy_port < int(said[1]) <= watched.busy_port + 100


@pytest.mark.ray
def test_status__is_the_drivers_own_word_while_it_works(watched: Watched) -> None:
    live = [status for status in watched.statuses if status["live"]]
    assert live
    for status in live:
        stage = status["stage"]
        assert status["phase"] == ("selecting" if stage in SELECTING else "training") or not stage
        assert status["round"] in (0, 1, 2)
        assert status["labeled"] == 40 + 20 * (status["round"] - (stage in SELECTING)) or not stage
        assert status["seconds_ago"] < 10
        assert status["metrics_url"] in watched.stdout
    assert any(status["stage"] for status in live)


@pytest.mark.ray
def test_status__of_a_run_that_is_done(watched: Watched) -> None:
    with Command("status", watched.run_dir, folder=watched.folder) as asked:
        assert asked.end(SECONDS) == 0, asked.stderr
        lines = asked.stdout.splitlines()
    pool = watched.metrics[-1]["pool"]
    assert lines[:2] == ["done: all 2 query rounds are done", f"80 labeled, {pool:,} unlabeled"]
    assert lines[-1].split()[:2] == ["2", "80"]
    assert asked.stderr == ""


@pytest.mark.ray
def test_metrics__every_series_is_there_from_the_start(watched: Watched) -> None:
    first = watched.scraped(0)
    assert first["dm2at_round",] == 0
    assert first["dm2at_rounds_committed_total",] == 0
    assert first["dm2at_query_score_count",] == 0
    for stage in STAGES:
        assert first["dm2at_stage_seconds_total", stage] >= 0
    assert [first["dm2at_queries_total", str(digit)] for digit in range(10)] == [0] * 10


@pytest.mark.ray
def test_metrics__after_rounds_0_and_1_say_what_these_reported(watched: Watched) -> None:
    scrapes = [watched.scraped(index) for index in range(len(watched.scrapes))]
    last = next(s for s in reversed(scrapes) if s["dm2at_rounds_committed_total",] == 2)
    zero, one = watched.metrics[:2]
    assert last["dm2at_round",] in (1, 2)
    phases = {key[1]: value for key, value in last.items() if key[0] == "dm2at_phase"}
    assert sum(phases.values()) == 1
    assert phases["selecting"] + phases["training"] == 1
    assert last["dm2at_labeled_images",] + last["dm2at_pool_images",] == one["labeled"] + one["pool"]
    assert last["dm2at_rejected_images",] == 0
    assert last["dm2at_label_budget_images",] == float("inf")
    for attack in ("clean", "fgsm", "pgd"):
        assert last["dm2at_accuracy_ratio", attack] == one["accuracy"][attack]
    for kind in ("clean", "adversarial", "total"):
        assert last["dm2at_loss", kind] > 0
    asked = [a + b for a, b in zip(zero["queries_by_class"], one["queries_by_class"], strict=True)]
    assert [last["dm2at_queries_total", str(digit)] for digit in range(10)] == asked
    assert sum(asked) == 60
    # Round 0 draws at random: only the 20 queries of round 1 have scores.
    assert last["dm2at_query_score_count",] == 20
    assert last["dm2at_query_score_sum",] == pytest.approx(sum(one["query_scores"]))
    assert last["dm2at_query_score_bucket", "+Inf"] == 20


@pytest.mark.ray
def test_metrics__stages_count_their_seconds_and_images(watched: Watched) -> None:
    scrapes = [watched.scraped(index) for index in range(len(watched.scrapes))]
    zero = watched.metrics[0]
    after_round_0 = next(s for s in scrapes if s["dm2at_rounds_committed_total",] == 1)
    for stage in ("label", "train", "evaluate"):
        assert after_round_0["dm2at_stage_seconds_total", stage] == pytest.approx(
            zero["stage_seconds"][stage], abs=0.01
        )
        assert after_round_0["dm2at_stage_images_total", stage] == zero["stage_images"][stage] > 0
    for before, after in itertools.pairwise(scrapes):
        for key, value in before.items():
            if key[0].endswith("_total"):
                assert after[key] >= value, key


@pytest.mark.ray
def test_metrics__the_loss_moves_while_a_training_goes_on(watched: Watched) -> None:
    scrapes = [watched.scraped(index) for index in range(len(watched.scrapes))]
    before_the_first_commit = [s for s in scrapes if s["dm2at_rounds_committed_total",] == 0]
    assert any(s.get(("dm2at_loss", "total"), 0) > 0 for s in before_the_first_commit)


class Page(HTMLParser):
    """Collects what a page loads, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.words: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        self.words |= set(data.replace(",", "").split())


@pytest.mark.ray
def test_report__is_one_page_with_the_queried_pictures_that_loads_nothing(watched: Watched) -> None:
    html = (watched.run_dir / "report.html").read_text()
    page = Page(html)
    pictures = [loaded for loaded in page.loaded if loaded.startswith("data:image/png;base64,")]
    # In rounds 1 and 2 the first 12 queries: the picture, its twin and the perturbation.
    assert len(pictures) >= 2 * 12 * 3
    assert all(loaded.startswith(("data:", "#")) for loaded in page.loaded)
    assert not re.search(r"@import|url\((?!['\"]?(#|data:))", html)
    for index in (1, 2):
        ids = RunDirectory(str(watched.run_dir)).round(index).query_ids()[:12]
        assert {str(sample_id) for sample_id in ids} <= {word.strip("#") for word in page.words}


@pytest.mark.ray
def test_report__goes_where_it_is_asked_to(watched: Watched) -> None:
    page = watched.folder / "page.html"
    with Command("report", watched.run_dir, "--output", page, folder=watched.folder) as command:
        assert command.end(SECONDS) == 0, command.stderr
        assert command.stdout == f"{page}\n"
    assert page.read_text().startswith("<!")


@pytest.mark.ray
def test_run__under_another_config_is_refused_by_the_names_of_the_fields(
    watched: Watched, ray_address: str
) -> None:
    config, run_dir = watched.folder / "tiny.yaml", watched.run_dir
    arguments = ("run", config, "--run-dir", run_dir, "--set", "query.size=7", "--set", "attack.epsilon=0.5")
    with Command(*arguments, folder=watched.folder, address=ray_address) as command:
        assert command.end(SECONDS) == 2
        assert command.stdout == ""
        assert re.fullmatch(
            rf"run directory {run_dir}: begun under another config \(query\.size was 20, now 7; "
            r"attack\.epsilon was 0\.03137\d*, now 0\.5\); set the fields back or give another --run-dir\n",
            command.stderr,
        )

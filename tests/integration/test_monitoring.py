"""A real Prometheus, started by `dm2at monitor up`, watches a real run whose driver is killed in the middle.

Every expression of every panel, recording rule and alert is evaluated against what it has seen.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.monitoring.dashboards import DASHBOARDS
from dm2at_ray.monitoring.metrics import RunMetrics
from dm2at_ray.monitoring.names import NODE_STAGES, STAGES
from dm2at_ray.monitoring.preview import RunData, write_preview
from dm2at_ray.monitoring.prometheus.client import Prometheus, QueryError
from dm2at_ray.monitoring.prometheus.rules import ALERTS, RECORDINGS
from dm2at_ray.store import RunDirectory

from .commands import Command, wait_for, write_config

SECONDS = 240
RUN = "tiny"

WITHOUT_DATA = {
    ("GPU use", 0): "the session's cluster has no GPU",
    ("GPU memory", 0): "the session's cluster has no GPU",
    ("Actor restarts", 1): "Ray has the counter only where it has lost a worker that was not its own to end",
}
"""Panel and number of its query -> why there may be nothing to see of a run without a mishap on a CPU."""


@dataclass(frozen=True)
class Watched:
    """A run that is done, and the Prometheus that has watched it."""

    folder: Path
    prometheus: Prometheus
    run: RunDirectory
    killed: int
    stdout: str

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [round_.metrics() for round_ in self.run.committed_rounds()]

    def total(self, name: str) -> dict[tuple[str, ...], float]:
        """Label values besides the run -> the last value of a counter, or of a gauge."""
        found = self.prometheus.at(f'last_over_time({name}{{run="{RUN}"}}[1h])')
        return {
            tuple(v for k, v in sorted(s.labels.items()) if k not in ("run", "job", "__name__")): s.values[0]
            for s in found
        }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def watched(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on the PATH: Debian's package `prometheus` has it")
    folder = tmp_path_factory.mktemp("monitoring")
    run_dir, port = folder / "run", free_port()
    # Of 500 labels a tenth watches the training. On a port of its own a driver that comes back is scraped at
    # once, so that counters which are not yet restored would be seen.
    config = write_config(
        folder / "tiny.yaml",
        query={"initial": 500},
        stop={"rounds": 2},
        monitoring={"port": free_port()},
    )
    options = ("--run-dir", run_dir, "--directory", folder / "monitor", "--port", port, "--interval", 1)
    with Command("monitor", "up", *options, folder=folder) as monitor:
        wait_for("Prometheus", lambda: "Prometheus: http://127.0.0.1" in monitor.stdout, 60)
        with Command("run", config, "--run-dir", run_dir, folder=folder, address=ray_address) as command:
            run = RunDirectory(str(run_dir))
            killed = wait_for("round 1's training", lambda: _driver_in_training(run, command), SECONDS)
            os.kill(killed, signal.SIGKILL)
            assert command.end(SECONDS) == 0, command.stderr
        yield Watched(folder, Prometheus(f"http://127.0.0.1:{port}"), run, killed, monitor.stdout)
        monitor.process.send_signal(signal.SIGINT)
        assert monitor.end(60) == 128 + signal.SIGINT
        assert "what was measured stays in" in monitor.stderr
        assert monitor.processes() == set()


def _driver_in_training(run: RunDirectory, command: Command) -> int | None:
    assert command.process.poll() is None, command.stderr
    status = run.status()
    return status["pid"] if (status.get("round"), status.get("stage")) == (1, "train") else None


@pytest.mark.ray
@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_panels__every_query_returns_data(watched: Watched, dashboard: Any) -> None:
    data = RunData(watched.prometheus, RUN)
    silent = [
        (panel.title, number)
        for panel in dashboard.panels
        for number, query in enumerate(panel.queries)
        if not data.over_time(query.expr)
    ]
    assert set(silent) <= set(WITHOUT_DATA), [data.expression(_query(*where)) for where in silent]


def _query(title: str, number: int) -> str:
    panel = next(p for d in DASHBOARDS for p in d.panels if p.title == title)
    return panel.queries[number].expr


@pytest.mark.ray
def test_rules__every_one_was_evaluated_without_an_error(watched: Watched) -> None:
    rules = {
        rule["name"]: rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]
    }
    assert set(rules) == {r.record for r in RECORDINGS} | {a.name for a in ALERTS}
    assert {rule["health"] for rule in rules.values()} == {"ok"}


@pytest.mark.ray
def test_recordings__have_the_run_and_its_last_word(watched: Watched) -> None:
    for recording in RECORDINGS:
        found = watched.prometheus.at(f"last_over_time({recording.record}[1h])")
        assert {series.labels["run"] for series in found} == {RUN}, recording.record
        assert not any("instance" in series.labels for series in found)
    done = 'last_over_time(run_phase:dm2at_phase:last{phase="done"}[1h]) == 1'
    wait_for("the next look at the rules", lambda: watched.prometheus.at(done) or None, 30)


@pytest.mark.ray
def test_alerts__expressions_are_understood_and_the_driver_is_not_missed(watched: Watched) -> None:
    for alert in ALERTS:
        watched.prometheus.at(alert.expr)
    firing = {alert["labels"]["alertname"] for alert in watched.prometheus.get("alerts")["alerts"]}
    assert not firing & {
        "Dm2atDriverGone",
        "Dm2atRoundStalled",
        "Dm2atRejectsOverLimit",
        "Dm2atLabelsOverdue",
    }
    with pytest.raises(QueryError, match="parse error"):
        watched.prometheus.at("max by (run (dm2at_phase)")


@pytest.mark.ray
def test_counters__say_what_the_run_directory_says_although_the_driver_was_killed(watched: Watched) -> None:
    assert len(watched.rounds) == 3
    assert watched.run.status()["pid"] != watched.killed
    assert watched.total("dm2at_rounds_committed_total") == {(): 3.0}
    images = {s: sum(m["stage_images"].get(s, 0) for m in watched.rounds) for s in STAGES}
    assert watched.total("dm2at_stage_images_total") == {(stage,): n for stage, n in images.items()}
    asked = [sum(counts) for counts in zip(*(m["queries_by_class"] for m in watched.rounds), strict=True)]
    assert watched.total("dm2at_queries_total") == {(str(c),): n for c, n in enumerate(asked)}
    seconds = {s: sum(m["stage_seconds"].get(s, 0) for m in watched.rounds) for s in STAGES}
    assert watched.total("dm2at_stage_seconds_total") == {
        (stage,): pytest.approx(value, abs=0.01) for stage, value in seconds.items()
    }
    last = watched.rounds[-1]["accuracy"]
    assert watched.total("dm2at_accuracy_ratio") == {(attack,): value for attack, value in last.items()}


@pytest.mark.ray
def test_counters__never_fall_and_begin_at_zero(watched: Watched) -> None:
    kinds = {"counter": "_total", "histogram": "_bucket"}
    families = [f for f in RunMetrics(RUN, ["cat"]).registry.collect() if f.type in kinds]
    assert len(families) >= 7
    for family in families:
        name = family.name + kinds[family.type]
        resets = watched.prometheus.at(f'resets({name}{{run="{RUN}"}}[1h])')
        assert {series.values[0] for series in resets} == {0.0}, name
    data = RunData(watched.prometheus, RUN)
    first = watched.prometheus.at(f'dm2at_rounds_committed_total{{run="{RUN}"}}', data.begin)
    assert [series.values for series in first] == [[0.0]]


@pytest.mark.ray
def test_images_by_node__add_up_to_those_of_the_stage(watched: Watched) -> None:
    by_node = watched.total("dm2at_node_images_total")
    by_stage = watched.total("dm2at_stage_images_total")
    for stage in NODE_STAGES:
        of_stage = [value for labels, value in by_node.items() if stage in labels]
        assert sum(of_stage) == by_stage[stage,] > 0


@pytest.mark.ray
def test_preview__draws_a_picture_of_both_dashboards(watched: Watched) -> None:
    picture = write_preview(watched.prometheus.url, RUN, watched.folder / "preview.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 100_000

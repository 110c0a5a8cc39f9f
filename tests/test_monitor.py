"""`dm2at monitor up` without the programs it starts: what it writes for them, and what it says."""

import json
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dm2at_ray.errors import RunError
from dm2at_ray.monitor import Settings, monitor, write_grafana, write_prometheus, write_targets
from dm2at_ray.store import RunDirectory


def settings(folder: Path, **fields: Any) -> Settings:
    return Settings(folder / "monitor", **{"ray_targets": str(folder / "ray.json"), **fields})


def begun(folder: Path, **status: Any) -> str:
    RunDirectory(str(folder)).write_status({"phase": "training", "time": time.time(), **status})
    return str(folder)


def listed(folder: Path, name: str) -> list[str]:
    (group,) = json.loads((folder / "monitor" / "targets" / name).read_text())
    return group["targets"]


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_monitor__without_prometheus_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dm2at: Callable[..., Any]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = dm2at("monitor", "up", "--directory", tmp_path / "monitor")
    assert answer.code == 2
    assert answer.stderr.startswith("monitor: no `prometheus` on the PATH; install it (Debian: apt-get ")
    assert len(answer.stderr.splitlines()) == 1


def test_monitor__a_busy_port_is_the_users_to_mend(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        mine = settings(tmp_path, prometheus=program(tmp_path, "prometheus", "exit 0"), port=port)
        with pytest.raises(RunError, match=rf"port {port} cannot be used .*--port"):
            monitor(mine, print)


def test_monitor__a_prometheus_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    mine = settings(
        tmp_path, prometheus=program(tmp_path, "prometheus", "echo no room; exit 3"), port=_free_port()
    )
    with pytest.raises(RunError, match=r"prometheus ended with code 3 \(no room\); its log is "):
        monitor(mine, print)


def test_monitor__ends_what_it_started(tmp_path: Path) -> None:
    port = _free_port()
    serve = f"exec python3 -m http.server --bind 127.0.0.1 {port}"
    mine = settings(
        tmp_path,
        prometheus=program(tmp_path, "prometheus", f"echo $$ > {tmp_path}/pid; {serve}"),
        grafana=program(tmp_path, "nothing", ""),
        grafana_port=_free_port(),
        port=port,
    )
    said: list[str] = []
    with pytest.raises(RunError, match="grafana ended with code 0"):
        monitor(mine, said.append)
    assert said[0] == f"Prometheus: http://127.0.0.1:{port}"
    assert said[1].endswith("/d/dm2at-rounds")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_targets__drivers_that_serve_and_the_nodes_that_ray_does_not_list_itself(tmp_path: Path) -> None:
    runs = (
        begun(
            tmp_path / "a",
            metrics_url="http://127.0.0.1:9464/metrics",
            ray_metrics=["10.0.0.1:1", "10.0.0.2:2"],
        ),
        begun(tmp_path / "b", phase="done", time=time.time() - 3600.0, metrics_url="http://x:1/metrics"),
        begun(tmp_path / "c", metrics_url=None),
        str(tmp_path / "not begun"),
    )
    (tmp_path / "ray.json").write_text(json.dumps([{"labels": {}, "targets": ["10.0.0.2:2"]}]))
    mine = settings(tmp_path, run_dirs=runs)
    write_prometheus(mine)
    write_targets(mine)
    assert listed(tmp_path, "drivers.json") == ["127.0.0.1:9464"]
    assert listed(tmp_path, "ray.json") == ["10.0.0.1:1"]


def test_targets__a_driver_that_has_just_ended_stays_for_its_last_scrape(tmp_path: Path) -> None:
    run = begun(tmp_path / "a", phase="done", metrics_url="http://127.0.0.1:9464/metrics")
    mine = settings(tmp_path, run_dirs=(run,))
    write_prometheus(mine)
    write_targets(mine)
    assert listed(tmp_path, "drivers.json") == ["127.0.0.1:9464"]


def test_targets__all_of_runs_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "runs" / "a", metrics_url="http://127.0.0.1:1/metrics")
    mine = settings(tmp_path)
    write_prometheus(mine)
    write_targets(mine)
    assert listed(tmp_path, "drivers.json") == ["127.0.0.1:1"]


def test_grafana__is_provisioned_with_the_dashboards_and_this_prometheus(tmp_path: Path) -> None:
    write_grafana(settings(tmp_path, port=19090))
    folder = tmp_path / "monitor" / "grafana"
    source = yaml.safe_load((folder / "provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://127.0.0.1:19090"
    provider = yaml.safe_load((folder / "provisioning/dashboards/dm2at.yaml").read_text())
    made = Path(provider["providers"][0]["options"]["path"])
    assert sorted(path.name for path in made.iterdir()) == ["dm2at-rounds.json", "dm2at-throughput.json"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

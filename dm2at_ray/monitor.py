"""`dm2at monitor up`: a Prometheus, and a Grafana, for the runs and the Ray of this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from dm2at_ray.errors import RunError
from dm2at_ray.monitoring.dashboards import DASHBOARDS
from dm2at_ray.monitoring.dashboards.grafana import dashboard_json
from dm2at_ray.monitoring.deploy_files import dashboard_provider, datasources, rules_yaml
from dm2at_ray.monitoring.prometheus.config import RAY_TARGETS, prometheus_config
from dm2at_ray.store import RunDirectory
from dm2at_ray.uri import absolute_uri

LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 2.0
STOP_SECONDS = 20.0
START_SECONDS = 60.0
ENDED = ("done", "failed", "interrupted", "awaiting_labels")
GRAFANA_HOMES = ("/usr/share/grafana", "/usr/local/share/grafana", "/opt/grafana")

NO_PROMETHEUS = (
    "monitor: no `prometheus` on the PATH; install it (Debian: apt-get install prometheus, "
    "macOS: brew install prometheus) or name one with --prometheus"
)


@dataclass(frozen=True)
class Settings:
    """What `dm2at monitor up` is asked for.

    Attributes:
        directory: Where configuration and data of both are kept.
        run_dirs: Runs to watch; empty for all in `runs/`.
        prometheus: The program; the one on the PATH if None.
        grafana: The program; the one on the PATH, if any, if None.
        port: Of Prometheus.
        grafana_port: Of Grafana.
        interval: Seconds between two scrapes.
        ray_targets: Where Ray lists its nodes.
    """

    directory: Path
    run_dirs: tuple[str, ...] = ()
    prometheus: str | None = None
    grafana: str | None = None
    port: int = 9090
    grafana_port: int = 3000
    interval: int = 5
    ray_targets: str = RAY_TARGETS


def monitor(settings: Settings, say: Callable[[str], None]) -> None:
    """Run both until one of them ends or the caller is interrupted; they end with the call.

    Raises:
        RunError: There is no Prometheus, a port is busy, or a program ended.
    """
    prometheus = _found("prometheus", settings.prometheus)
    if prometheus is None:
        raise RunError(NO_PROMETHEUS)
    grafana = _found("grafana", settings.grafana) or _found("grafana-server", settings.grafana)
    _insist_on_free_port(settings.port, "--port")
    write_prometheus(settings)
    write_targets(settings)
    with _running(_prometheus_command(prometheus, settings), settings.directory / "prometheus.log") as server:
        _wait_for_port(server, settings.port, settings.directory / "prometheus.log")
        say(f"Prometheus: http://{LOOPBACK}:{settings.port}")
        if grafana is None:
            say("Grafana is not installed: no dashboards but Prometheus's own pages; alerts are at /alerts")
            _follow(settings, [server])
            return
        _insist_on_free_port(settings.grafana_port, "--grafana-port")
        write_grafana(settings)
        command = _grafana_command(grafana)
        environment = _grafana_environment(settings)
        with _running(command, settings.directory / "grafana.log", environment) as dashboards:
            say(f"Grafana: http://{LOOPBACK}:{settings.grafana_port}/d/{DASHBOARDS[0].uid}")
            _follow(settings, [server, dashboards])


def write_prometheus(settings: Settings) -> Path:
    """Write Prometheus's configuration and rules.

    Returns:
        The configuration's path.
    """
    directory = settings.directory.absolute()
    (directory / "targets").mkdir(parents=True, exist_ok=True)
    (directory / "dm2at.rules.yml").write_text(rules_yaml(), encoding="utf-8")
    config = prometheus_config(
        [settings.ray_targets, str(directory / "targets" / "ray.json")],
        [str(directory / "targets" / "drivers.json")],
        "dm2at.rules.yml",
        interval=f"{settings.interval}s",
    )
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def write_targets(settings: Settings) -> None:
    """List the drivers that say in their run directories where they serve metrics, and their Rays' nodes."""
    drivers: list[str] = []
    nodes: list[str] = []
    for run_dir in settings.run_dirs or _runs_here():
        status = RunDirectory(absolute_uri(run_dir)).status()
        if not status.get("metrics_url") or (status.get("phase") in ENDED and _is_over(status)):
            continue
        drivers.append(urlsplit(status["metrics_url"]).netloc)
        nodes += status.get("ray_metrics", [])
    listed = _listed_by_ray(Path(settings.ray_targets))
    _write_list(settings.directory / "targets" / "drivers.json", drivers)
    # A Ray that lists its nodes itself is not scraped twice.
    _write_list(settings.directory / "targets" / "ray.json", [n for n in nodes if n not in listed])


def write_grafana(settings: Settings) -> None:
    """Write Grafana's provisioning and the dashboards."""
    directory = settings.directory.absolute() / "grafana"
    files = {
        "provisioning/datasources/prometheus.yaml": yaml.safe_dump(
            datasources(f"http://{LOOPBACK}:{settings.port}")
        ),
        "provisioning/dashboards/dm2at.yaml": yaml.safe_dump(
            dashboard_provider(str(directory / "dashboards"))
        ),
        **{f"dashboards/{d.uid}.json": dashboard_json(d) for d in DASHBOARDS},
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _runs_here() -> list[str]:
    return [str(path.parent) for path in sorted(Path("runs").glob("*/status.json"))]


def _is_over(status: dict[str, object]) -> bool:
    """Whether the driver has had the time for its last scrape."""
    said = status.get("time")
    return not isinstance(said, float) or time.time() - said > START_SECONDS


def _listed_by_ray(path: Path) -> set[str]:
    try:
        return {target for group in json.loads(path.read_text()) for target in group["targets"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write_list(path: Path, targets: list[str]) -> None:
    """Replace a list at once: Prometheus may read it at any moment."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps([{"targets": sorted(set(targets))}]), encoding="utf-8")
    beside.replace(path)


def _found(name: str, given: str | None) -> str | None:
    return shutil.which(given or name)


def _prometheus_command(program: str, settings: Settings) -> list[str]:
    directory = settings.directory.absolute()
    return [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={LOOPBACK}:{settings.port}",
    ]


def _grafana_command(program: str) -> list[str]:
    command = [program] if program.endswith("grafana-server") else [program, "server"]
    home = next((path for path in GRAFANA_HOMES if (Path(path) / "conf").is_dir()), None)
    return [*command, *([f"--homepath={home}"] if home else [])]


def _grafana_environment(settings: Settings) -> dict[str, str]:
    directory = settings.directory.absolute() / "grafana"
    return {
        "GF_SERVER_HTTP_ADDR": LOOPBACK,
        "GF_SERVER_HTTP_PORT": str(settings.grafana_port),
        "GF_PATHS_DATA": str(directory / "data"),
        "GF_PATHS_LOGS": str(directory / "logs"),
        "GF_PATHS_PROVISIONING": str(directory / "provisioning"),
        # On loopback whoever can reach it may look.
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }


def _insist_on_free_port(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RunError(
                f"monitor: port {port} cannot be used ({error.strerror}); choose another one with {option}"
            ) from None


@contextmanager
def _running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the time of the block; asked to end at its end, and made to if it does not."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            # Ctrl-C comes to this process, which ends the other in its own time.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _insist_on_life(process, log)
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.1)
    raise RunError(f"monitor: {log.stem} does not answer on port {port}; its log is {log}")


def _insist_on_life(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        lines = log.read_text(errors="replace").splitlines()
        raise RunError(
            f"monitor: {log.stem} ended with code {process.returncode} "
            f"({lines[-1] if lines else 'it said nothing'}); its log is {log}"
        )


def _follow(settings: Settings, processes: list[subprocess.Popen[bytes]]) -> None:
    logs = [settings.directory / "prometheus.log", settings.directory / "grafana.log"]
    while True:
        time.sleep(LOOK_SECONDS)
        write_targets(settings)
        for process, log in zip(processes, logs, strict=False):
            _insist_on_life(process, log)

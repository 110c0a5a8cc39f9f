"""`dm2at monitor`: watch runs by Prometheus and Grafana."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from dm2at_ray.commands.interrupts import signals_raise

app = typer.Typer(help="Watch runs by Prometheus and Grafana.", no_args_is_help=True)


@app.command("up")
def up(
    run_dirs: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option(
            "--run-dir",
            help="A run to watch, begun or not; all in runs/ if left out. May be given several times.",
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option(help="Where configuration, data and logs of both are kept.")
    ] = Path("runs/.monitor"),
    prometheus: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The Prometheus to start; the one on the PATH if left out."),
    ] = None,
    grafana: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The Grafana to start; the one on the PATH, if any, if left out."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prometheus, on loopback.")] = 9090,
    grafana_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Grafana, on loopback.")] = 3000,
    interval: Annotated[int, typer.Option(min=1, help="Seconds between two scrapes.")] = 5,
) -> None:
    """Start Prometheus, and Grafana where it is installed, for the runs and the Ray of this machine."""
    from dm2at_ray.monitor import Settings
    from dm2at_ray.monitor import monitor as watch

    settings = Settings(
        directory,
        tuple(run_dirs or ()),
        prometheus,
        grafana,
        port,
        grafana_port,
        interval,
    )
    with signals_raise(f"what was measured stays in {directory}"):
        watch(settings, lambda line: print(line, flush=True))


@app.command("files")
def files(
    directory: Annotated[
        Path, typer.Argument(help="Where to write them: deploy in the repository.", show_default=False)
    ],
) -> None:
    """Write Prometheus's configuration and rules, and Grafana's provisioning and dashboards."""
    from dm2at_ray.monitoring.deploy_files import write_deploy_files

    for path in write_deploy_files(directory):
        print(path)


@app.command("preview")
def preview(
    output: Annotated[Path, typer.Argument(help="The picture to write.", show_default=False)],
    run_name: Annotated[str, typer.Option("--run", help="The run's name.", show_default=False)],
    prometheus: Annotated[str, typer.Option(help="Where Prometheus answers.")] = "http://127.0.0.1:9090",
) -> None:
    """Draw every panel of the dashboards from what a Prometheus has of a run."""
    from dm2at_ray.monitoring.preview import write_preview

    print(write_preview(prometheus, run_name, output))

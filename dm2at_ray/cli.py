"""The `dm2at` command: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.console import Console

from dm2at_ray import __version__
from dm2at_ray.commands import bench, labels, monitor, queries
from dm2at_ray.commands.evaluate import evaluate
from dm2at_ray.commands.export import export
from dm2at_ray.commands.interrupts import Interrupted, signals_raise
from dm2at_ray.commands.options import JsonOption, RunArgument, RunDirArgument
from dm2at_ray.commands.pool import pool
from dm2at_ray.commands.predict import predict
from dm2at_ray.commands.serve import serve, token
from dm2at_ray.commands.submit import submit
from dm2at_ray.errors import UserError

app = typer.Typer(
    help="Robust active learning for image classifiers, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(bench.app, name="bench")
app.add_typer(monitor.app, name="monitor")
app.add_typer(queries.app, name="queries")
app.add_typer(labels.app, name="labels")
app.add_typer(pool, name="pool")
app.command()(submit)
app.command()(serve)
app.add_typer(token, name="token")


def main() -> NoReturn:
    """Entry point: user errors are one line and exit code 2, signals 128 + their number, bugs a traceback."""
    try:
        app(prog_name="dm2at")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        print(f"stopped; {interrupted.left}", file=sys.stderr)
        sys.exit(128 + interrupted.number)
    sys.exit(0)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The YAML file of the run.", show_default=False)],
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option("--set", help="Set a field: section.field=value. May be given several times."),
    ] = None,
    run_dir: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where the run is kept: a local path or a URI. runs/NAME if left out."),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(help="Where people label: wait for their labels rather than end without them."),
    ] = False,
) -> None:
    """Play active-learning rounds until a stop rule says so; go on where an earlier call was cut off.

    Where people label (query.oracle: files) it ends with exit code 0 and the word `awaiting_labels` when a
    round's queries wait for them; the same command goes on once `dm2at labels import` has brought them.
    """
    from dm2at_ray.config import Config
    from dm2at_ray.launch import run as run_rounds
    from dm2at_ray.monitoring.tables import round_costs_table, rounds_table

    # As `python -m` does: a model named by its import path lies where the user stands.
    sys.path.insert(0, str(Path.cwd()))
    with signals_raise("what is committed stays: the same command goes on from there"):
        result = run_rounds(Config.load(config, settings), run_dir, wait=wait)
    if result.rounds:
        Console().print(rounds_table(result.rounds), round_costs_table(result.rounds), sep="\n")
    report_path = _write_report(result.run_dir)
    print(f"{result.phase}: {result.reason}\nrun directory: {result.run_dir}\nreport: {report_path}")


@app.command()
def status(
    run_dir: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Tell where a run is: the driver's own word while it works, else what it left."""
    from dm2at_ray.monitoring.tables import rounds_table
    from dm2at_ray.remote import is_remote
    from dm2at_ray.remote.status import read_status as read_remote_status
    from dm2at_ray.status import read_status, status_lines

    found = read_remote_status(run_dir) if is_remote(run_dir) else read_status(run_dir)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for line in status_lines(found):
        print(line)
    if found["rounds"]:
        Console().print(rounds_table(found["rounds"]))


app.command()(evaluate)
app.command()(predict)
app.command()(export)


@app.command()
def report(
    run_dir: RunDirArgument,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="The file to write; report.html in the run directory if left out."
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page: curves, stage times, and the pictures that were queried."""
    print(_write_report(run_dir, output))


@app.command("config")
def show_config() -> None:
    """Print every field of a config with its default and its meaning."""
    from dm2at_ray.config_help import config_help

    print(config_help())


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _write_report(run_dir: str, output: Path | None = None) -> str:
    from dm2at_ray.run_report import write_report

    return write_report(run_dir, output)


if __name__ == "__main__":
    main()

"""The `dm2at` command: parse, call, print."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.console import Console

from dm2at_ray import __version__
from dm2at_ray.commands import labels, queries
from dm2at_ray.commands.export import export
from dm2at_ray.commands.interrupts import Interrupted, signals_raise
from dm2at_ray.commands.pool import pool
from dm2at_ray.commands.predict import predict
from dm2at_ray.errors import UserError

app = typer.Typer(
    help="Robust active learning for image classifiers, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Benchmarks to run on your own hardware.", no_args_is_help=True)
app.add_typer(bench, name="bench")
monitor = typer.Typer(help="Watch runs by Prometheus and Grafana.", no_args_is_help=True)
app.add_typer(monitor, name="monitor")
app.add_typer(queries.app, name="queries")
app.add_typer(labels.app, name="labels")
app.add_typer(pool, name="pool")

RunDirArgument = Annotated[
    str, typer.Argument(help="The run directory: a local path or a URI.", show_default=False)
]


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
def submit(
    config: Annotated[
        Path, typer.Argument(help="The YAML file of the run, anywhere on this machine.", show_default=False)
    ],
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS",
            help="URL of the cluster's dashboard, e.g. http://head:8265.",
            show_default=False,
        ),
    ],
    run_dir: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Where the run is kept, as all nodes see it: a URI or an absolute path. runs/NAME of this "
            "machine if left out, for a cluster on this machine only."
        ),
    ] = None,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="Set a field: section.field=value. May be given several times."),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Follow the job to its end; --no-wait prints its id and returns 0.")
    ] = True,
    submission_id: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The job's id; made from the run directory and the config if left out."),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="What is sent along, for models of your own; no hidden or ignored files.")
    ] = Path("."),
    excludes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--exclude", help="Leave this out too, a pattern as in .gitignore. May be repeated."),
    ] = None,
    python: Annotated[str, typer.Option(help="Python on the cluster's nodes.")] = "python",
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds for which the dashboard may be gone before this gives up.")
    ] = 600.0,
) -> None:
    """Submit a run to a Ray cluster by its job API, follow it, and end with the driver's own exit code.

    Submitting the same run again attaches to the job that plays it; where none does any more, a new attempt
    goes on from the run directory. The exit code is the driver's (0: done or awaiting labels, 1: failed, 2:
    yours to mend), or 143 where the job was stopped. Ctrl-C leaves the job alone: the same command follows it
    again. The token is taken as Ray takes it: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
    ~/.ray/auth_token. The log goes to stdout, words about the job to stderr.

    The job's command is `python -m dm2at_ray run`, as `dm2at` need not be installed there: the nodes need
    what this package requires, the code itself is sent. So does
    `ray job submit --working-dir . -- python -m dm2at_ray run CONFIG --run-dir URI` from a checkout.
    """
    from dm2at_ray.config import Config

    # Before Ray is imported, which takes a second.
    checked = Config.load(config, settings)
    from dm2at_ray.submission import Submission
    from dm2at_ray.submission import submit as submit_run
    from dm2at_ray.submission.job import run_dir_for

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def emit(text: str) -> None:
        print(text, end="", flush=True)

    submission = Submission(
        checked,
        address.rstrip("/"),
        run_dir_for(run_dir, checked, address),
        working_dir,
        tuple(excludes or ()),
        submission_id,
        python,
    )
    with signals_raise("a job that was submitted goes on: the same command follows it"):
        ending = submit_run(submission, wait=wait, emit=emit, say=say, patience=patience)
    if wait:
        say(ending.words)
    else:
        print(ending.job_id)
    raise typer.Exit(ending.exit_code)


@app.command()
def status(
    run_dir: RunDirArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell where a run is: the driver's own word while it works, else what it left."""
    from dm2at_ray.monitoring.tables import rounds_table
    from dm2at_ray.status import read_status, status_lines

    found = read_status(run_dir)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for line in status_lines(found):
        print(line)
    if found["rounds"]:
        Console().print(rounds_table(found["rounds"]))


@app.command()
def evaluate(
    run_dir: RunDirArgument,
    attacks: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--attack",
            help="clean, fgsm, pgd or autoattack (needs the extra `robust`). May be given several times; "
            "the first three if left out.",
        ),
    ] = None,
    round_index: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--round", min=0, help="The round whose model to take; the last one if left out."),
    ] = None,
    pgd_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Steps of PGD; as in the run if left out."),
    ] = None,
    pgd_restarts: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Random starts of PGD; as in the run if left out."),
    ] = None,
    max_images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Take the first so many held-out images; all of them if left out."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Import path of the run's model where it is your own, package.module:function: no code is "
            "imported because a run directory names it.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a round's model on the held-out images, per class and with 95 % confidence intervals."""
    from dm2at_ray.monitoring.evaluations import evaluation_tables
    from dm2at_ray.monitoring.progress import make_progress
    from dm2at_ray.run_evaluation import ROUND_ATTACKS, Request, evaluate_run
    from dm2at_ray.uri import absolute_uri

    run_dir = absolute_uri(run_dir)
    if model is None:
        # Ray's processes import from where they start, which may be a stranger's run directory.
        os.chdir("/")
    else:
        sys.path.insert(0, str(Path.cwd()))
    attacks_asked_for = tuple(attacks or ROUND_ATTACKS)
    request = Request(attacks_asked_for, round_index, pgd_steps, pgd_restarts, max_images, model)
    view = make_progress(sys.stderr if as_json else sys.stdout)
    with signals_raise("attacks that were finished stay written"), view:
        result = evaluate_run(run_dir, request, view)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    Console().print(*evaluation_tables(list(result["evaluations"].values())), sep="\n")
    print(f"written to {result['written_to']}")


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


@bench.command(
    "neighbors",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_neighbors(context: typer.Context) -> None:
    """Time neighbour search beside other libraries on your own hardware; --help lists the options."""
    from dm2at_ray.bench.neighbors import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@bench.command(
    "train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_train(context: typer.Context) -> None:
    """Time clean training, the textbook's FGSM training and ours; --help lists the options."""
    from dm2at_ray.bench.train import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@bench.command(
    "robustness",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_robustness(context: typer.Context) -> None:
    """Compare ways of adversarial training under FGSM and PGD; --help lists the options."""
    from dm2at_ray.bench.robustness import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@bench.command(
    "pool",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_pool(context: typer.Context) -> None:
    """Play a selection round on a pool of any size and watch its memory; --help lists the options."""
    from dm2at_ray.bench.pool import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@monitor.command("up")
def monitor_up(
    run_dirs: Annotated[
        Optional[list[str]],  # noqa: UP045
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


@monitor.command("files")
def monitor_files(
    directory: Annotated[
        Path, typer.Argument(help="Where to write them: deploy in the repository.", show_default=False)
    ],
) -> None:
    """Write Prometheus's configuration and rules, and Grafana's provisioning and dashboards."""
    from dm2at_ray.monitoring.deploy_files import write_deploy_files

    for path in write_deploy_files(directory):
        print(path)


@monitor.command("preview")
def monitor_preview(
    output: Annotated[Path, typer.Argument(help="The picture to write.", show_default=False)],
    run_name: Annotated[str, typer.Option("--run", help="The run's name.", show_default=False)],
    prometheus: Annotated[str, typer.Option(help="Where Prometheus answers.")] = "http://127.0.0.1:9090",
) -> None:
    """Draw every panel of the dashboards from what a Prometheus has of a run."""
    from dm2at_ray.monitoring.preview import write_preview

    print(write_preview(prometheus, run_name, output))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _write_report(run_dir: str, output: Path | None = None) -> str:
    from dm2at_ray.run_report import write_report

    return write_report(run_dir, output)


if __name__ == "__main__":
    main()

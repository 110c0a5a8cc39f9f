"""`dm2at submit`: a run as a job of a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from dm2at_ray.commands.interrupts import signals_raise


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
        Optional[str],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
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

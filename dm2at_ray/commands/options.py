"""Arguments and options that several commands have, and what they mean for where imports come from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

RunDirArgument = Annotated[
    str, typer.Argument(help="The run directory: a local path or a URI.", show_default=False)
]
RunArgument = Annotated[
    str,
    typer.Argument(
        help="The run directory, a local path or a URI; or the URL of a service's run, "
        "http(s)://HOST:PORT/runs/NAME, to which the environment's DM2AT_TOKEN goes.",
        show_default=False,
    ),
]
RoundOption = Annotated[
    Optional[int],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
    typer.Option("--round", min=0, help="The round whose model to take; the last one if left out."),
]
ModelOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--model",
        help="Import path of the run's model where it is your own, package.module:function: no code is "
        "imported because a run directory names it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def import_only(model: str | None) -> None:
    """Have code of the user's imported from where the user stands if it is asked for, else none.

    Args:
        model: Import path of the user's own model; None where none is to be run.
    """
    if model is None:
        # Ray's processes import from where they start, which may be a stranger's run directory.
        os.chdir("/")
    else:
        sys.path.insert(0, str(Path.cwd()))

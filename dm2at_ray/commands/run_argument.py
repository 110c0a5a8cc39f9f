"""What stands for a run where a service may have it."""

from __future__ import annotations

from typing import Annotated

import typer

RunArgument = Annotated[
    str,
    typer.Argument(
        help="The run directory, a local path or a URI; or the URL of a service's run, "
        "http(s)://HOST:PORT/runs/NAME, to which the environment's DM2AT_TOKEN goes.",
        show_default=False,
    ),
]

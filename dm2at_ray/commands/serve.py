"""`dm2at serve` and `dm2at token`: runs, queries and labels over HTTP, and who may ask."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Optional

import typer

from dm2at_ray.errors import ConfigError

token = typer.Typer(help="Make, list and revoke the tokens of `dm2at serve`.", no_args_is_help=True)

TokensOption = Annotated[
    Path, typer.Option(help="The file of the tokens; it has their SHA-256 only.", show_default=False)
]
NameArgument = Annotated[
    str, typer.Argument(help="Whose it is; stands beside their labels.", show_default=False)
]


def serve(
    runs: Annotated[
        str, typer.Option(help="Where the runs are, a directory each: a path or a URI.", show_default=False)
    ],
    address: Annotated[
        Optional[str],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option(
            help="URL of the dashboard of the Ray cluster that plays runs, e.g. http://head:8265; without it "
            "runs are watched and labeled only."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others need --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8700,
    tokens: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The file of the tokens, made by `dm2at token new`."),
    ] = None,
    data: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A place that runs may take images and weights from. May be given several times."),
    ] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Import path of an own model that runs may use, package.module:function. May be repeated."
        ),
    ] = None,
    metrics_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Address on which drivers of runs may tell their metrics to a Prometheus elsewhere, e.g. "
            "0.0.0.0; of this machine alone if left out. May be repeated."
        ),
    ] = None,
    cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for what can be made again at any time; a temporary one if left out."),
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="So long a picture is kept for who has it before them.")
    ] = 120.0,
    python: Annotated[str, typer.Option(help="Python on the cluster's nodes.")] = "python",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log every request: who, method, path, status, time.")
    ] = False,
) -> None:
    """Serve runs, their queries and their labels over HTTP, with a page to label on.

    It keeps no truth of its own: runs and labels are in the run directories, so it may be killed at any
    moment and started elsewhere. SIGTERM or Ctrl-C ends it in order, with exit code 0.
    """
    _require_extra()
    from dm2at_ray.service.server import log_to_stderr
    from dm2at_ray.service.server import serve as serve_runs
    from dm2at_ray.service.settings import ServiceSettings
    from dm2at_ray.uri import absolute_uri

    settings = ServiceSettings(
        runs=absolute_uri(runs),
        address=address.rstrip("/") if address else None,
        host=host,
        port=port,
        tokens=tokens,
        data_roots=tuple(absolute_uri(root) for root in data or ()),
        models=tuple(model or ()),
        metrics_hosts=tuple(metrics_host or ()),
        cache=cache,
        lease_seconds=lease_seconds,
        python=python,
        access_log=access_log,
    )
    log_to_stderr()
    serve_runs(settings, lambda line: print(line, flush=True))


@token.command("new")
def new(
    name: NameArgument,
    tokens: TokensOption,
    role: Annotated[
        str,
        typer.Option(
            help="read, label or operate; each may do what those before it may.", show_default=False
        ),
    ],
) -> None:
    """Make a token and print it, this once."""
    from dm2at_ray.service.tokens import new_token

    print(new_token(tokens, name, role))


@token.command("list")
def list_tokens(tokens: TokensOption) -> None:
    """Print the names and roles of all tokens."""
    from dm2at_ray.service.tokens import read_tokens

    for each in read_tokens(tokens):
        print(f"{each.name}\t{each.role}")


@token.command("revoke")
def revoke(name: NameArgument, tokens: TokensOption) -> None:
    """Take a token back; a service that runs refuses it a second later."""
    from dm2at_ray.service.tokens import revoke_token

    revoke_token(tokens, name)


def _require_extra() -> None:
    wanted = ("fastapi", "uvicorn", "uvloop", "httptools")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"dm2at serve needs {', '.join(missing)}; install the extra: pip install 'dm2at-ray[service]'"
        )

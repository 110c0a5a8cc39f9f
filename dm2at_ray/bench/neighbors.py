"""`dm2at bench neighbors`: its options, and what it prints.

By argparse and not by typer, which imports pydantic: `python -m dm2at_ray.bench.neighbors` takes the same
options on a GPU machine that has neither pydantic nor Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dm2at_ray.bench.contenders import PEERS
from dm2at_ray.bench.process import ended_by_sigterm
from dm2at_ray.bench.report import Report, notes, rows_table
from dm2at_ray.bench.settings import DEFAULT_D, DEFAULT_N, Settings
from dm2at_ray.bench.study import study
from dm2at_ray.errors import ConfigError, UserError
from dm2at_ray.neighbors import ENGINES

DESCRIPTION = """\
Time neighbour search under D = L1 + L2 on features of real images, beside other libraries that do the
same work. Every engine and peer runs, warmed up, in a process of its own; the recall of all is measured
against the same float64 reference."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print what it found.

    Args:
        arguments: as on the command line, without the command.

    Returns:
        Exit code: 1 if an engine or peer failed, else 0.

    Raises:
        UserError: an option is out of range or at odds with another.
        SystemExit: arguments that are no options of this command, or --help.
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    if options.pop("no_peers", False):
        if "peers" in options:
            raise ConfigError(f"peer={options['peers'][0]!r} has no effect with --no-peers; leave one out")
        options["peers"] = ()
    settings = Settings(**options)
    with ended_by_sigterm():
        report = study(settings, progress=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False))
    else:
        _print(report)
    return int(any(row.error for row in report.rows))


def _parser() -> argparse.ArgumentParser:
    """Options named as the fields of Settings; what is not given is left out, so that its defaults hold."""
    parser = argparse.ArgumentParser(
        prog="dm2at bench neighbors",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add(
        "--n",
        dest="sizes",
        action="append",
        type=int,
        metavar="N",
        help=f"rows; several times for the growth with n ({DEFAULT_N:,}, or all rows of --features)",
    )
    add(
        "--d",
        dest="dim",
        type=int,
        metavar="D",
        help=f"features of a row ({DEFAULT_D}, or those of --features)",
    )
    add("--k", type=int, metavar="K", help="neighbours of each row (10)")
    add(
        "--engine",
        dest="engines",
        action="append",
        metavar="NAME",
        help=f"an engine; several times for several: auto, {', '.join(ENGINES)} (all but auto)",
    )
    add(
        "--peer",
        dest="peers",
        action="append",
        metavar="NAME",
        help=f"a peer; several times for several: {', '.join(PEERS)} (all installed)",
    )
    add("--no-peers", dest="no_peers", action="store_true", help="engines only")
    add("--features", type=Path, metavar="FILE.npy", help="search in this (N, D) matrix of floats instead")
    add("--save-features", type=Path, metavar="FILE.npy", help="keep the features that are made")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of Fashion-MNIST's four IDX files (where the system has them, else digits are taken)",
    )
    add("--audit-queries", type=int, metavar="Q", help="random queries whose neighbours are checked (1,000)")
    add(
        "--peer-limit",
        type=float,
        metavar="SECONDS",
        help="when a peer stops; its time is scaled from the rows done (300)",
    )
    add("--limit", type=float, metavar="SECONDS", help="when an engine is given up (3,600)")
    add("--repeat", type=int, metavar="R", help="runs of each engine, of which the median time counts (1)")
    add("--threads", type=int, metavar="T", help="CPU threads of each engine and peer (all cores)")
    add("--seed", type=int, metavar="SEED", help="of images, network and queries (0)")
    add("--device", metavar="DEVICE", help="where engines and cdist run: cpu, cuda (cpu)")
    add("--json", dest="as_json", action="store_true", default=False, help="print one JSON object")
    return parser


def _print(report: Report) -> None:
    Console().print(rows_table(report.rows))
    for line in notes(report):
        print(line)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

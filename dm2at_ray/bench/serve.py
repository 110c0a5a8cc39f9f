"""`dm2at bench serve`: its options, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dm2at_ray.bench.process import ended_by_sigterm
from dm2at_ray.bench.serve_study import ServeBenchSettings, ServeReport, serve_study
from dm2at_ray.bench.tables import figures_table
from dm2at_ray.errors import UserError

DESCRIPTION = """\
Have many people label at once over HTTP: a server process on a run whose round awaits labels, and labelers in
another process, each of whom leases five queries, fetches their pictures (32 x 32, JPEG) and those of their
neighbours that they have not seen yet, and posts each answer. In the end every label that was acknowledged is
looked for in the run directory. The run is made before, without Ray, and not counted."""

MIB = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print what it found.

    Args:
        arguments: as on the command line, without the command.

    Returns:
        Exit code: 0; 1 where a query was served twice, or a label lost or doubled.

    Raises:
        UserError: an option is out of range, or the server or the labelers failed.
        SystemExit: arguments that are no options of this command, or --help.
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    settings = ServeBenchSettings(**options)
    with ended_by_sigterm():
        report = serve_study(settings, progress=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False))
    else:
        Console().print(requests_table(report))
        for line in serve_notes(report):
            print(line)
    return int(any(report.faults.values()))


def requests_table(report: ServeReport) -> Table:
    """What requests took."""
    title = f"{report.settings['labelers']} labelers, milliseconds"
    table = figures_table(title, "request", "requests", "p50", "p95", "p99", "max", names="request")
    for kind, took in report.requests.items():
        row = [f"{took[name]:,.1f}" for name in ("p50", "p95", "p99", "max")]
        table.add_row(kind, f"{took['count']:,.0f}", *row)
    return table


def serve_notes(report: ServeReport) -> list[str]:
    """What is to be known beside the table."""
    cores = "" if report.other_cores is None else f"; others took {report.other_cores:.2f} cores"
    return [
        f"{report.labels_per_second:,.0f} labels and {report.requests_per_second:,.0f} requests a second for "
        f"{report.seconds:,.1f} s; {report.log_files:,} files in the log; "
        f"{report.first_seconds:,.1f} s for the very first request, which builds the index",
        f"server: {report.peak_rss_bytes / MIB:,.0f} MiB at most, {report.rss_bytes / MIB:,.0f} before the "
        f"first request; {report.server_cpu_seconds:,.1f} CPU seconds, the labelers "
        f"{report.labelers_cpu_seconds:,.1f}{cores}",
        "held against the run directory: "
        + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.faults.items()),
    ]


def _parser() -> argparse.ArgumentParser:
    """Options named as the fields of the settings; what is not given is left out: their defaults hold."""
    parser = argparse.ArgumentParser(
        prog="dm2at bench serve",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--labelers", type=int, metavar="N", help="people who label at once (50)")
    add("--queries", type=int, metavar="N", help="queries that are open in the beginning (10,000)")
    add("--seed", type=int, metavar="SEED", help="of the pictures and of the queries' order (0)")
    add("--think-ms", type=float, metavar="MS", help="how long each looks at a picture (0)")
    add("--work", type=Path, metavar="DIR", help="folder for the run (a temporary one); it is removed again")
    add("--limit", type=float, metavar="SECONDS", help="the labelers are stopped after so long (3,600)")
    add("--json", dest="as_json", action="store_true", default=False, help="print one JSON object")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

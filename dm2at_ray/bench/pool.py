"""`dm2at bench pool`: its options, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dm2at_ray.bench.pool_study import GIB, PoolBenchSettings, PoolReport, pool_study
from dm2at_ray.bench.process import ended_by_sigterm
from dm2at_ray.bench.tables import figures_table
from dm2at_ray.errors import UserError

DESCRIPTION = """\
Play one whole selection round on a pool of N small colour pictures (32 x 32, JPEG in Parquet, made before
and not counted): list and check, embed, neighbours by the routed engine, score, craft, label, a short
training. It runs on a Ray of its own, whose object store is small; the memory of every process is looked at
twice a second."""

MIB = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print what it found.

    Args:
        arguments: as on the command line, without the command.

    Returns:
        Exit code: 0.

    Raises:
        UserError: an option is out of range, or the run failed.
        SystemExit: arguments that are no options of this command, or --help.
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    settings = PoolBenchSettings(**options)
    with ended_by_sigterm():
        report = pool_study(settings, progress=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False))
        return 0
    Console().print(stages_table(report), memory_table(report), sep="\n")
    for line in pool_notes(report):
        print(line)
    return 0


def stages_table(report: PoolReport) -> Table:
    """What every stage took."""
    title = f"one selection round on {report.n:,} images"
    table = figures_table(title, "stage", "seconds", "images", "images/s", names="stage")
    for name, stage in report.stages.items():
        rate = stage["images_per_second"]
        table.add_row(
            name,
            f"{stage['seconds']:,.1f}",
            f"{stage['images']:,}" if stage["images"] else "",
            "" if rate is None else f"{rate:,.0f}",
        )
    table.add_row("all", f"{report.seconds:,.1f}", f"{report.n:,}", f"{report.n / report.seconds:,.0f}")
    return table


def memory_table(report: PoolReport) -> Table:
    """What every kind of process held at most."""
    title = "highest resident memory of one process, MiB"
    table = figures_table(title, "process", "own", "with shared pages", names="process")
    for kind, own in report.peak_rss_bytes.items():
        shared = report.peak_rss_with_object_store_bytes.get(kind)
        table.add_row(kind, f"{own / MIB:,.0f}", "" if shared is None else f"{shared / MIB:,.0f}")
    return table


def pool_notes(report: PoolReport) -> list[str]:
    """What is to be known beside the tables."""
    recall = report.neighbors.get("recall")
    return [
        f"object store: {report.object_store_bytes / GIB:.2f} GiB, of which "
        f"{report.peak_object_store_bytes / GIB:.2f} were written to; {report.spilled_bytes / GIB:.2f} GiB "
        "went to the disk",
        "own: without the pages of the object store, which every process maps that reads an object; looked "
        "at twice a second. With them: the kernel's high-water mark",
        f"neighbours: {report.neighbors['engine']}, {report.neighbors.get('probes')} cells a row"
        + ("" if recall is None else f", recall {recall:.4f}"),
    ]


def _parser() -> argparse.ArgumentParser:
    """Options named as the fields of the settings; what is not given is left out: their defaults hold."""
    parser = argparse.ArgumentParser(
        prog="dm2at bench pool",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--n", type=int, metavar="N", help="images of the pool (100,000)")
    add("--seed", type=int, metavar="SEED", help="of images and run (0)")
    add("--cpus", type=int, metavar="C", help="CPUs of Ray, and actors (2)")
    add("--object-store-bytes", type=int, metavar="BYTES", help="size of Ray's object store (1 GiB)")
    add("--block-rows", type=int, metavar="ROWS", help="rows of a piece of work (16,384)")
    add(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder for images and run (a temporary one); images of an earlier call are taken again",
    )
    add("--keep", action="store_true", help="leave images and run in --work")
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

"""`dm2at labels`: what people answered."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Optional

import typer

from dm2at_ray.commands.options import JsonOption, RunArgument

app = typer.Typer(help="Labels from people.", no_args_is_help=True)

LINES_SHOWN = 10


@app.command("import")
def import_(
    run_dir: RunArgument,
    files: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Argument(metavar="FILE...", help="Paths or URIs of the filled-in exports.", show_default=False),
    ] = None,
    format_name: Annotated[
        Literal["auto", "csv", "parquet", "label-studio", "cvat"],
        typer.Option("--format", help="What the files are; `auto` looks into them."),
    ] = "auto",
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Who labeled; the tool's word on it, else the file's name, if left out."),
    ] = None,
    accept_partial: Annotated[
        bool, typer.Option(help="What is labeled then is enough: the round goes on without the rest.")
    ] = False,
    keep_good: Annotated[
        bool, typer.Option(help="Import the lines that are fine, though others are refused.")
    ] = False,
    add_classes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--add-class", help="A class that the run does not know yet. May be given several times."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take labels back: check every line, tell what became of it, and write all of them or none.

    Importing again changes nothing. Two people may import at once, and while the run is at work. A label
    of an earlier round may be corrected; the later word counts from the next training on. The exit code is 2
    where a line is refused and nothing was written.
    """
    from dm2at_ray.errors import LabelError

    if not files and not accept_partial:
        raise LabelError("FILE: none given; name the files to import")
    labels, run = _labels_of(run_dir)
    report = labels.import_labels(
        run,
        files or [],
        format_name=format_name,
        source=source,
        add_classes=add_classes or [],
        keep_good=keep_good,
        accept_partial=accept_partial,
    )
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        for line in _report_lines(report, keep_good):
            print(line)
    if report.refused and not keep_good:
        raise typer.Exit(2)


@app.command()
def status(run_dir: RunArgument, as_json: JsonOption = False) -> None:
    """Tell how many labels each round asked for and has, and who gave them."""
    from rich.console import Console

    from dm2at_ray.monitoring.tables import plain_table

    labels, run = _labels_of(run_dir)
    found = labels.labels_status(run)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = plain_table("round", "asked", "labeled", "cannot tell", "missing", "")
    for row in found["rounds"]:
        state = "committed" if row["committed"] else "accepted" if row["accepted"] else "open"
        counts = [f"{row[name]:,}" for name in ("asked", "labeled", "skipped", "missing")]
        table.add_row(str(row["round"]), *counts, state)
    Console().print(table)
    print(f"corrections: {found['corrections']:,}")
    for name, count in sorted(found["sources"].items(), key=lambda item: -item[1]):
        print(f"by {name}: {count:,}")


@app.command()
def history(
    run_dir: RunArgument,
    sample: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Of this sample only; of all that were corrected if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what was said of a sample, by whom and when; the last word counts."""
    from dm2at_ray.labeling import CANNOT_TELL

    labels, run = _labels_of(run_dir)
    rows = labels.labels_history(run, sample)
    if sample is None:
        corrected = {row["sample_id"] for row in rows if row["was"] is not None}
        rows = [row for row in rows if row["sample_id"] in corrected]
    if as_json:
        print(json.dumps([{**row, "time": row["time"].isoformat()} for row in rows], indent=1))
        return
    for row in rows:
        was = "" if row["was"] is None else f" (was {row['was']['label'] or CANNOT_TELL!r})"
        said = f"{row['label'] or CANNOT_TELL!r}{was}, {row['source']}"
        print(f"{row['time']:%Y-%m-%d %H:%M:%S} UTC  sample {row['sample_id']}: {said}")
    if not rows:
        print("no corrections" if sample is None else f"sample {sample}: nobody has said anything yet")


def _labels_of(run_dir: str) -> tuple[Any, Any]:
    """The functions on labels, and the run that they take: of a directory, or of a service."""
    from dm2at_ray.remote import RemoteRun, is_remote

    if is_remote(run_dir):
        from dm2at_ray.remote import labels

        return labels, RemoteRun.at(run_dir)
    from dm2at_ray import labeling
    from dm2at_ray.store import RunDirectory
    from dm2at_ray.uri import absolute_uri

    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    return labeling, run


def _report_lines(report: Any, keep_good: bool) -> list[str]:
    """What an import did, for a person."""
    from dm2at_ray.labeling.checks import CORRECTION, KINDS, REFUSED

    lines = []
    for kind, count in report.counts().items():
        lines.append(f"{count:,} {KINDS[kind]}")
        if kind in (*REFUSED, CORRECTION):
            of_kind = report.of(kind)
            lines += [f"  {line.text()}" for line in of_kind[:LINES_SHOWN]]
            if len(of_kind) > LINES_SHOWN:
                lines.append(f"  and {len(of_kind) - LINES_SHOWN:,} more (--json has them all)")
    if report.refused and not keep_good:
        lines.append("nothing was written: mend these lines, or --keep-good imports the others")
    elif report.written is None:
        lines.append("nothing to write: no file says anything new")
    else:
        # Of a run directory it is the new file's name.
        folder = "labels/" if report.written.endswith(".parquet") else ""
        lines.append(f"written: {folder}{report.written}")
    if report.round is not None:
        lines.append(f"round {report.round}: {report.answered:,} of {report.asked:,} answered")
        if report.missing and report.accepted is None:
            some = ", ".join(map(str, report.missing[:LINES_SHOWN]))
            more = len(report.missing) - LINES_SHOWN
            missing = some + (f" and {more:,} more" if more > 0 else "")
            lines.append(f"missing: {missing}; the round waits for them, or for --accept-partial")
        elif report.missing:
            lines.append(f"accepted as it is: the round goes on without the other {len(report.missing):,}")
    return lines

"""`dm2at predict`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal, Optional

import typer
from rich.console import Console

from dm2at_ray.commands.interrupts import signals_raise
from dm2at_ray.commands.options import JsonOption, ModelOption, RoundOption, RunDirArgument, import_only


def predict(
    run_dir: RunDirArgument,
    source: Annotated[
        str,
        typer.Argument(
            help="The images: a path or a URI of any kind of source, or KIND:PATH, as in `parquet:images`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Argument(help="The directory for the Parquet files: a path or a URI.", show_default=False)
    ],
    round_index: RoundOption = None,
    model: ModelOption = None,
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Kind of the source; told by what is there if left out."),
    ] = None,
    image_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Parquet: the column with the images; the run's own if left out."),
    ] = None,
    label_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Parquet: the column with the labels; the run's own if left out."),
    ] = None,
    split: Annotated[
        Optional[Literal["pool", "test"]],  # noqa: UP045
        typer.Option(help="Only what the run would hold out of this source (test) or not (pool)."),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Keep the so many best classes of each image too.")] = 0,
    all_probabilities: Annotated[
        bool, typer.Option("--all-probabilities", help="Keep the probabilities of all classes too.")
    ] = False,
    part_rows: Annotated[int, typer.Option(min=1, help="Images of a part, a file each.")] = 8192,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="Set a resource: compute.field=value. May be given several times."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Apply a round's model to the images of any source: class and probability of each, as Parquet files.

    The parts are in the order of the source's listing. The same command goes on where an earlier one was cut
    off. Where the source knows the labels, the accuracy is printed too.
    """
    from dm2at_ray.monitoring.predictions import prediction_lines, predictions_table
    from dm2at_ray.monitoring.progress import make_progress
    from dm2at_ray.pool.named import kind_and_path
    from dm2at_ray.run_prediction import Request, predict_source
    from dm2at_ray.uri import absolute_uri

    run_dir, (said_kind, path) = absolute_uri(run_dir), kind_and_path(source)
    request = Request(
        path,
        absolute_uri(out),
        round_index,
        model,
        kind or said_kind,
        image_column,
        label_column,
        split,
        top,
        all_probabilities,
        part_rows,
        tuple(settings or ()),
    )
    import_only(model)
    view = make_progress(sys.stderr if as_json else sys.stdout)
    with signals_raise("parts that were finished stay: the same command goes on from there"), view:
        found = predict_source(run_dir, request, view)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    Console().print(predictions_table(found))
    for line in prediction_lines(found):
        print(line)
    print(f"written to {found['out']}: {found['listing']['parts']} parts, {found['new_parts']} of them now")

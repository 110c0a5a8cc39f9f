"""`dm2at queries`: a round's queries, for people to label."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Optional

import typer

from dm2at_ray.commands.options import JsonOption, RunArgument

app = typer.Typer(help="What a round asks people to label.", no_args_is_help=True)

NEXT_STEPS = {
    "csv": "fill in its column `label` (a class's name, or `cannot tell`), then",
    "parquet": "fill in its column `label` (a class's name, or `cannot tell`), then",
    "label-studio": "make a project with interface.xml as its labeling interface, serve the pictures (start "
    "Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
    "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={parent}, and add {folder} as a local files storage, not to be "
    "synced), import tasks.json, label, export JSON, then",
    "cvat": "make a task with the labels of labels.json and the files in pictures (cvat-cli task create NAME "
    "local {folder}/pictures/* --labels @{folder}/labels.json --annotation_path {folder}/annotations.xml "
    "--image_quality 100), tag each image, export as CVAT for images 1.1, then",
}


@app.callback()
def group() -> None:
    """What a round asks people to label."""


@app.command()
def export(
    run_dir: RunArgument,
    format_name: Annotated[
        Literal["csv", "parquet", "label-studio", "cvat"],
        typer.Option("--format", help="For spreadsheets, for scripts, or for a labeling tool."),
    ] = "csv",
    round_index: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option("--round", min=0, help="The round; the one that awaits labels if left out."),
    ] = None,
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            help="New or empty folder, path or URI; rounds/NNNN/export-FORMAT of the run if left out, of a "
            "service's run NAME-NNNN-FORMAT here.",
        ),
    ] = None,
    pictures: Annotated[
        Literal["copy", "link", "none"],
        typer.Option(
            help="Copy the images; link to them where each is a file of its own; or leave them out."
        ),
    ] = "copy",
    neighbors: Annotated[
        bool, typer.Option(help="Tell each query's nearest labeled images, with their pictures.")
    ] = True,
    size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Enlarge tiny images, by a whole factor, to at most so many pixels."),
    ] = None,
    url_prefix: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="label-studio: the URL under which the folder is served, ending in /; Label Studio's own "
            "local file storage if left out."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Write an export anew that is there; labels filled in there are lost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a round's queries with their pictures, predictions, scores and nearest labeled images.

    An export that was cut off is completed by the same command; a whole one is left as it is.
    """
    from dm2at_ray.labeling import ExportSettings
    from dm2at_ray.remote import is_remote

    write = _export_remote if is_remote(run_dir) else _export
    exported = write(
        run_dir,
        format_name,
        round_index=round_index,
        output=output,
        settings=ExportSettings(pictures, neighbors, size, url_prefix),
        overwrite=overwrite,
    )
    if as_json:
        print(json.dumps(vars(exported), indent=1))
        return
    for line in _lines(exported, run_dir):
        print(line)


def _export(run_dir: str, format_name: str, **options: Any) -> Any:
    from dm2at_ray.labeling import export_queries
    from dm2at_ray.pool import open_source
    from dm2at_ray.source_spec import source_spec
    from dm2at_ray.store import RunDirectory
    from dm2at_ray.uri import absolute_uri

    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    return export_queries(run, open_source(source_spec(run.config())), format_name, **options)


def _export_remote(url: str, format_name: str, **options: Any) -> Any:
    from dm2at_ray.remote import RemoteRun
    from dm2at_ray.remote.exporting import export_queries

    return export_queries(RemoteRun.at(url), format_name, **options)


def _lines(exported: Any, run_dir: str) -> list[str]:
    parent = exported.folder.rsplit("/", 1)[0]
    steps = NEXT_STEPS[exported.format].format(folder=exported.folder, parent=parent)
    if exported.written:
        what = f"round {exported.round}: {exported.tasks:,} queries, {exported.pictures:,} pictures"
    else:
        what = f"round {exported.round}: exported already, left as it is (--overwrite writes it anew)"
    return [what, exported.index, f"{steps}\n  dm2at labels import {run_dir} FILE"]

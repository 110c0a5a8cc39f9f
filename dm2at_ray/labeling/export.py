"""`dm2at queries export`: a round's queries with their pictures, in the format of a labeling tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats import FORMATS, Sheet
from dm2at_ray.labeling.picture_files import ExportSettings, Place, write_pictures
from dm2at_ray.labeling.tasks import Task, asked_round, known_classes, query_tasks
from dm2at_ray.pool import Source
from dm2at_ray.pool.decode import Raw
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri

MARK = "export.json"
"""Says that a folder holds an export, and of what; written first."""


@dataclass(frozen=True)
class Exported:
    """An export that is whole.

    Attributes:
        folder: Path or URI.
        index: Path or URI of the file that lists the queries.
        round: The round that asks.
        format: A key of `FORMATS`.
        tasks: How many queries.
        pictures: How many pictures, those of neighbours included; None where it was there already.
        written: Whether it was written now; False where it was there already.
    """

    folder: str
    index: str
    round: int
    format: str
    tasks: int
    pictures: int | None
    written: bool


@dataclass(frozen=True)
class AskedRound:
    """A round's queries, wherever they come from.

    Attributes:
        run: Name of the run.
        round: The round that asks.
        size: How many queries.
        tasks: Gives them, best first; with their neighbours, or without.
        classes: Gives the names of the classes.
        read: Reads images.
    """

    run: str
    round: int
    size: int
    tasks: Callable[[bool], list[Task]]
    classes: Callable[[], list[str]]
    read: Callable[[Sequence[Place]], Sequence[Raw]]


def export_queries(
    run: RunDirectory,
    source: Source,
    format_name: str,
    *,
    round_index: int | None = None,
    output: str | None = None,
    settings: ExportSettings | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the queries of a round for people to label.

    Args:
        run: The run directory.
        source: Where the pool's images are.
        format_name: A key of `FORMATS`.
        round_index: The round; the one that awaits labels if left out.
        output: Folder, path or URI; `rounds/NNNN/export-FORMAT` of the run directory if left out.
        settings: How; as `ExportSettings` has it if left out.
        overwrite: Write an export anew that is there already.
        progress: Takes how many pictures are written, and of how many.

    Returns:
        Where it is.

    Raises:
        LabelError: The round has no queries, the folder holds something else, or pictures cannot be linked.
        PoolError: The manifest cannot be read.
    """
    settings = settings or ExportSettings()
    check_settings(format_name, settings)
    round_ = asked_round(run, round_index)
    inside = f"rounds/{round_.index:04d}/export-{format_name}"
    files = run.files.below(inside) if output is None else Files.at(absolute_uri(output))
    folder = f"{run.uri.rstrip('/')}/{inside}" if output is None else absolute_uri(output).rstrip("/")
    asked = AskedRound(
        run.name,
        round_.index,
        len(round_.query_ids()),
        lambda neighbors: query_tasks(run, round_, neighbors=neighbors),
        lambda: known_classes(run),
        lambda places: source.read([place.uri for place in places], [place.row for place in places]),
    )
    return write_export(asked, format_name, files, folder, settings, overwrite, progress)


def check_settings(format_name: str, settings: ExportSettings) -> None:
    """Hold the settings of an export against each other.

    Raises:
        LabelError: One has no effect, or leaves a tool without what it needs.
    """
    if format_name == "cvat" and settings.pictures == "none":
        raise LabelError("--pictures none: CVAT knows images by their files; give copy or link")
    if settings.size is not None and settings.pictures != "copy":
        raise LabelError(f"--size {settings.size}: only copies can be enlarged; give --pictures copy")


def write_export(
    asked: AskedRound,
    format_name: str,
    files: Files,
    folder: str,
    settings: ExportSettings,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write an export into a folder that is empty or holds the same one.

    The file that lists the queries is written last and at once, so an export that was cut off is never taken
    for a whole one; the next call completes it. A whole one is left as it is, as somebody may have begun to
    fill it in.

    Args:
        asked: The queries.
        format_name: A key of `FORMATS`.
        files: The folder.
        folder: What it is called.
        settings: How.
        overwrite: Write an export anew that is there already.
        progress: Takes how many pictures are written, and of how many.

    Raises:
        LabelError: The folder holds something else, an image cannot be read, or pictures cannot be linked.
    """
    form = FORMATS[format_name]

    def exported(tasks: int, pictures: int | None) -> Exported:
        index = f"{folder}/{form.INDEX}"
        return Exported(folder, index, asked.round, format_name, tasks, pictures, pictures is not None)

    _claim(files, folder, {"run": asked.run, "round": asked.round, "format": format_name}, overwrite)
    if files.exists(form.INDEX):
        if not overwrite:
            return exported(asked.size, None)
        files.delete(form.INDEX)
    tasks = asked.tasks(settings.neighbors)
    pictures = write_pictures(tasks, asked.read, files, settings, progress)
    prefix = settings.url_prefix
    if prefix is None:
        served = settings.pictures != "none" and format_name == "label-studio"
        prefix = f"/data/local-files/?d={folder.rsplit('/', 1)[-1]}/" if served else ""
    form.write(Sheet(asked.round, tasks, pictures, asked.classes(), prefix), files)
    return exported(len(tasks), len(pictures))


def _claim(files: Files, folder: str, mark: dict[str, object], overwrite: bool) -> None:
    """Insist that a folder is free or holds this export, and mark it."""
    if files.exists(MARK):
        found = files.read_json(MARK)
        if found == mark:
            return
        if not overwrite:
            raise LabelError(
                f"--output {folder}: holds the queries of round {found['round']} of {found['run']} as "
                f"{found['format']}; give another folder, or --overwrite"
            )
        files.delete(FORMATS[found["format"]].INDEX)
    elif files.names():
        raise LabelError(f"--output {folder}: not empty, and no export of queries; give another folder")
    files.write_json(MARK, mark)

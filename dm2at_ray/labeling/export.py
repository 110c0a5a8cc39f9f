"""`dm2at queries export`: a round's queries with their pictures, in the format of a labeling tool."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats import FORMATS, Picture, Sheet
from dm2at_ray.labeling.pictures import encoded, is_image_file
from dm2at_ray.labeling.tasks import Task, asked_round, known_classes, query_tasks
from dm2at_ray.pool import Source, UnreadableImage
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri

MARK = "export.json"
"""Says that a folder holds an export, and of what; written first."""
PICTURES = "pictures"
NEIGHBORS = "neighbors"
_OWN_PICTURE = re.compile(r"\d+\.[a-z]+")
_READ_AT_ONCE = 256

PictureMode = Literal["copy", "link", "none"]


@dataclass(frozen=True)
class ExportSettings:
    """How queries are exported.

    Attributes:
        pictures: `copy` (the source's own bytes; PNG of pixel arrays), `link` (to image files of this
            machine; others are named by their URI) or `none`.
        neighbors: Whether each query's nearest labeled samples are told, and pictured.
        size: Images whose longer side is at most half of it are copied as PNG, enlarged by a whole factor to
            at most so many pixels; None leaves all as they are.
        url_prefix: What stands before the pictures' paths where Label Studio is told of them; the path that
            its local file storage serves if left out.
    """

    pictures: PictureMode = "copy"
    neighbors: bool = True
    size: int | None = None
    url_prefix: str | None = None


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

    The file that lists the queries is written last and at once, so an export that was cut off is never taken
    for a whole one; the next call completes it. A whole one is left as it is, as somebody may have begun to
    fill it in.

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
    form = FORMATS[format_name]
    if format_name == "cvat" and settings.pictures == "none":
        raise LabelError("--pictures none: CVAT knows images by their files; give copy or link")
    if settings.size is not None and settings.pictures != "copy":
        raise LabelError(f"--size {settings.size}: only copies can be enlarged; give --pictures copy")
    round_ = asked_round(run, round_index)
    inside = f"rounds/{round_.index:04d}/export-{format_name}"
    files = run.files.below(inside) if output is None else Files.at(absolute_uri(output))
    folder = f"{run.uri.rstrip('/')}/{inside}" if output is None else absolute_uri(output).rstrip("/")

    def exported(tasks: int, pictures: int | None) -> Exported:
        index = f"{folder}/{form.INDEX}"
        return Exported(folder, index, round_.index, format_name, tasks, pictures, pictures is not None)

    mark = {"run": run.name, "round": round_.index, "format": format_name}
    _claim(files, folder, mark, overwrite)
    if files.exists(form.INDEX):
        if not overwrite:
            return exported(len(round_.query_ids()), None)
        files.delete(form.INDEX)
    tasks = query_tasks(run, round_, neighbors=settings.neighbors)
    pictures = _write_pictures(tasks, source, files, settings, progress)
    prefix = settings.url_prefix
    if prefix is None:
        served = settings.pictures != "none" and format_name == "label-studio"
        prefix = f"/data/local-files/?d={folder.rsplit('/', 1)[-1]}/" if served else ""
    form.write(Sheet(round_.index, tasks, pictures, known_classes(run), prefix), files)
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


def _write_pictures(
    tasks: list[Task],
    source: Source,
    files: Files,
    settings: ExportSettings,
    progress: Callable[[int, int], None],
) -> dict[int, Picture]:
    """Write the pictures of the queries, and each neighbour's once; by sample id."""
    if settings.pictures == "none":
        return {}
    asked = {task.sample_id: (task.uri, task.row) for task in tasks}
    near = {n.sample_id: (n.uri, n.row) for task in tasks for n in task.neighbors}
    places = [(PICTURES, sample_id, *place) for sample_id, place in asked.items()]
    places += [(NEIGHBORS, sample_id, *place) for sample_id, place in near.items() if sample_id not in asked]
    # Neighbouring rows share a row group or an archive, which is read once then.
    places.sort(key=lambda place: place[2:])
    pictures: dict[int, Picture] = {}
    for start in range(0, len(places), _READ_AT_ONCE):
        some = places[start : start + _READ_AT_ONCE]
        raws = source.read([place[2] for place in some], [place[3] for place in some])
        for (part, sample_id, uri, row), raw in zip(some, raws, strict=True):
            if isinstance(raw, UnreadableImage):
                raise _lost(sample_id, uri, row, raw)
            try:
                data, suffix, width, height = encoded(raw, settings.size)
            except UnreadableImage as unreadable:
                raise _lost(sample_id, uri, row, unreadable) from unreadable
            name = f"{part}/{sample_id}{suffix}"
            if settings.pictures == "copy":
                _put(files, name, data)
            else:
                name = _link(files, name, uri)
            pictures[sample_id] = Picture(name, width, height)
        progress(min(start + _READ_AT_ONCE, len(places)), len(places))
    _sweep(files, {picture.name for picture in pictures.values()})
    return pictures


def _lost(sample_id: int, uri: str, row: int, unreadable: UnreadableImage) -> LabelError:
    return LabelError(
        f"sample {sample_id} ({uri!r}, row {row}) can no longer be read: {unreadable.reason}; restore it"
    )


def _put(files: Files, name: str, data: bytes) -> None:
    """Write a picture, in place: no half one is taken for whole, as the index comes last."""
    folder = files.local_root
    if folder is None:
        files.write_bytes(name, data)
        return
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # What lies there may be a link to the pool's own file.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _link(files: Files, name: str, uri: str) -> str:
    """Link to an image file of this machine; the picture's name, or the image's URI where it is elsewhere."""
    if not is_image_file(uri):
        raise LabelError(f"--pictures link: {uri} is no file of one image; give copy")
    folder = files.local_root
    if "://" in uri or folder is None:
        return uri if "://" in uri else Path(uri).as_uri()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(uri)
    return name


def _sweep(files: Files, keep: Iterable[str]) -> None:
    """Remove the pictures that an export which was cut off, or written under other settings, has left."""
    for part in (PICTURES, NEIGHBORS):
        for name in files.names(part):
            if _OWN_PICTURE.fullmatch(name) and f"{part}/{name}" not in keep:
                files.delete(f"{part}/{name}")

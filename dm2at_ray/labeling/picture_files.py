"""The pictures of an export: copies in its folder, or links."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats import Picture
from dm2at_ray.labeling.pictures import encoded, is_image_file
from dm2at_ray.labeling.tasks import Task
from dm2at_ray.pool import UnreadableImage
from dm2at_ray.pool.decode import Raw
from dm2at_ray.store.files import Files

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


class Place(NamedTuple):
    """Where the image of a sample is: uri and row are the pool's."""

    sample_id: int
    uri: str
    row: int


def write_pictures(
    tasks: list[Task],
    read: Callable[[Sequence[Place]], Sequence[Raw]],
    files: Files,
    settings: ExportSettings,
    progress: Callable[[int, int], None],
) -> dict[int, Picture]:
    """Write the pictures of the queries, and each neighbour's once.

    Args:
        tasks: The queries.
        read: Reads images.
        files: The folder of the export.
        settings: How.
        progress: Takes how many pictures are written, and of how many.

    Returns:
        By sample id; empty where none are wanted.

    Raises:
        LabelError: An image cannot be read, or cannot be linked to.
    """
    if settings.pictures == "none":
        return {}
    asked = {task.sample_id: Place(task.sample_id, task.uri, task.row) for task in tasks}
    near = {n.sample_id: Place(n.sample_id, n.uri, n.row) for task in tasks for n in task.neighbors}
    wanted = [(PICTURES, place) for place in asked.values()]
    wanted += [(NEIGHBORS, place) for sample_id, place in near.items() if sample_id not in asked]
    # Neighbouring rows share a row group or an archive, which is read once then.
    wanted.sort(key=lambda each: each[1][1:])
    pictures: dict[int, Picture] = {}
    for start in range(0, len(wanted), _READ_AT_ONCE):
        some = wanted[start : start + _READ_AT_ONCE]
        raws = read([place for _, place in some])
        for (part, place), raw in zip(some, raws, strict=True):
            if isinstance(raw, UnreadableImage):
                raise _lost(place, raw)
            try:
                data, suffix, width, height = encoded(raw, settings.size)
            except UnreadableImage as unreadable:
                raise _lost(place, unreadable) from unreadable
            name = f"{part}/{place.sample_id}{suffix}"
            if settings.pictures == "copy":
                _put(files, name, data)
            else:
                name = _link(files, name, place.uri)
            pictures[place.sample_id] = Picture(name, width, height)
        progress(min(start + _READ_AT_ONCE, len(wanted)), len(wanted))
    _sweep(files, {picture.name for picture in pictures.values()})
    return pictures


def _lost(place: Place, unreadable: UnreadableImage) -> LabelError:
    return LabelError(
        f"sample {place.sample_id} ({place.uri!r}, row {place.row}) can no longer be read: "
        f"{unreadable.reason}; restore it"
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

"""Which kind of source lies at a path, for commands that are given no more than that."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources import arrow_images, image_folder, image_list, parquet, tar

POOL_FILE = "pool.json"
_FASHION_MNIST = "train-images-idx3-ubyte"
_LOOK_AT = 1_000  # folders
_SUFFIXES = {
    "parquet": parquet.SUFFIXES,
    "tar": (tar.SUFFIX, *tar.COMPRESSED),
    "image_folder": image_folder.SUFFIXES,
}
_MEND = "give a folder of images, .parquet or .tar files, a .csv list of images, or a built pool"


def guess_kind(path: str, image_column: str = "image", field: str = "source") -> str:
    """The kind of source at ``path``, a path or pyarrow filesystem URI.

    Args:
        path: a file or folder.
        image_column: what a Parquet file must have to be a pool itself, rather than a list of images.
        field: how an error names the path.

    Returns:
        ``pool``, ``parquet``, ``tar``, ``list``, ``fashion_mnist`` or ``image_folder``.

    Raises:
        PoolError: nothing is there, or none of these.
    """
    place = Location.of(path, field)
    try:
        found = place.info().type
        if found == fs.FileType.File:
            return _kind_of_file(place, image_column, field)
        if found == fs.FileType.Directory:
            return _kind_of_folder(place, field)
    except (OSError, pa.ArrowException) as error:
        raise PoolError(f"{field} {path!r}: {one_line(error)}; give a place that can be read") from error
    raise PoolError(f"{field} {path!r}: no such file or folder; give a place that holds images")


def _kind_of_file(place: Location, image_column: str, field: str) -> str:
    path = place.path
    if path.endswith(image_list.CSV_SUFFIXES):
        return "list"
    if path.endswith(parquet.SUFFIXES):
        with open_parquet(path, filesystem=place.filesystem) as file:
            schema = file.schema_arrow
        if image_column in schema.names:
            image_type = schema.field(image_column).type
            if arrow_images.holds_bytes(image_type) or arrow_images.holds_pixels(image_type):
                return "parquet"
        # Where it has neither column, the source of Parquet says so.
        return "list" if image_list.DEFAULT_COLUMN in schema.names else "parquet"
    if path.endswith((tar.SUFFIX, *tar.COMPRESSED)):
        return "tar"  # which refuses a compressed one and says how to mend it
    raise PoolError(f"{field} {place.uri!r}: no source of images; {_MEND}")


def _kind_of_folder(place: Location, field: str) -> str:
    """By the first file of a known kind, looking at a folder's own files before those of its sub-folders."""
    folders, looked_at = [place.path], 0
    while folders and looked_at < _LOOK_AT:
        files, below = place.child(folders.pop()).directly_below()
        looked_at += 1
        names = {name for path in files if not (name := path.rpartition("/")[2]).startswith(".")}
        if looked_at == 1 and POOL_FILE in names:
            return "pool"
        if looked_at == 1 and any(name.startswith(_FASHION_MNIST) for name in names):
            return "fashion_mnist"
        for kind, suffixes in _SUFFIXES.items():
            if any(name.lower().endswith(suffixes) for name in names):
                return kind
        folders += [path for path in reversed(below) if not path.rpartition("/")[2].startswith(".")]
    raise PoolError(f"{field} {place.uri!r}: no images, .parquet or .tar files there; {_MEND}")

"""Sources as a command line names them."""

from __future__ import annotations

from typing import Any

from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources import SOURCES, SourceSpec

_BY_SUFFIX = {".parquet": "parquet", ".pq": "parquet", ".tar": "tar", ".csv": "list"}


def source_named(text: str, **fields: Any) -> SourceSpec:
    """The source that `text` names: a path or URI whose kind is told by what is there, or `kind:path`.

    Args:
        text: Such as `photos`, `s3://bucket/photos`, `parquet:s3://bucket/table` or `digits:`.
        **fields: Of the spec.

    Raises:
        PoolError: Nothing is there.

    Examples:
        >>> source_named("parquet:s3://bucket/table").path, source_named("digits:").path
        ('s3://bucket/table', None)
    """
    kind, colon, path = text.partition(":")
    if not colon or kind not in SOURCES:
        kind, path = guess_kind(text), text
    if kind != "torchvision":
        fields.pop("dataset", None)
    return SourceSpec(kind=kind, path=absolute(path) or None, **fields)


def absolute(path: str) -> str:
    """A local path made absolute, for workers that start elsewhere; what is no path as it is."""
    return Location.of(path).uri if path and "://" not in path else path


def guess_kind(path: str) -> str:
    """Kind of the source at a path or URI, by what is there."""
    place = Location.of(path, "source")
    try:
        info = place.info()
        if info.type == fs.FileType.NotFound:
            raise PoolError(
                f"source {path!r}: nothing is there; give a place that holds images, or KIND:PATH with "
                f"one of {', '.join(SOURCES)}"
            )
        suffix = "." + info.extension.lower()
        if info.type == fs.FileType.File:
            return _BY_SUFFIX.get(suffix, "parquet")
        names = {found.base_name for found in place.filesystem.get_file_info(fs.FileSelector(place.path))}
    except OSError as error:
        raise PoolError(f"source {path!r}: {one_line(error)}; give a place that can be read") from error
    if "pool.json" in names:
        return "pool"
    if any(name.startswith("train-images-idx3-ubyte") for name in names):
        return "fashion_mnist"
    for ending, kind in _BY_SUFFIX.items():
        if any(name.lower().endswith(ending) for name in names):
            return kind
    return "image_folder"

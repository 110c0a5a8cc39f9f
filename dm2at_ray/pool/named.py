"""Sources as a command line names them."""

from __future__ import annotations

from typing import Any

from dm2at_ray.pool.location import Location
from dm2at_ray.pool.sources import SOURCES, SourceSpec
from dm2at_ray.pool.sources.guess import guess_kind


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
        kind, path = guess_kind(text, fields.get("image_column", "image")), text
    if kind != "torchvision":
        fields.pop("dataset", None)
    return SourceSpec(kind=kind, path=absolute(path) or None, **fields)


def absolute(path: str) -> str:
    """A local path made absolute, for workers that start elsewhere; what is no path as it is."""
    return Location.of(path).uri if path and "://" not in path else path

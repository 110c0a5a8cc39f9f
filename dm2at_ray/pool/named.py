"""Sources as a command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dm2at_ray.pool.sources import SOURCES, SourceSpec
from dm2at_ray.pool.sources.guess import guess_kind
from dm2at_ray.uri import absolute_uri

NO_PATH = "digits"
"""The kind that comes with a library."""


def kind_and_path(text: str) -> tuple[str | None, str | None]:
    """What `text` says of a source: its kind, None where that is told by what is there, and its place.

    Args:
        text: Such as `photos`, `s3://bucket/photos`, `parquet:s3://bucket/table` or `digits`.

    Examples:
        >>> kind_and_path("parquet:s3://bucket/images"), kind_and_path("s3://bucket/images")
        (('parquet', 's3://bucket/images'), (None, 's3://bucket/images'))
        >>> kind_and_path("digits"), kind_and_path("digits:")
        (('digits', None), ('digits', None))
    """
    kind, colon, path = text.partition(":")
    if kind in SOURCES and colon and not path.startswith("//"):
        return kind, absolute_uri(path) if path else None
    if text == NO_PATH and not Path(text).exists():
        return text, None
    return None, absolute_uri(text)


def source_named(text: str, **fields: Any) -> SourceSpec:
    """The source that `text` names, as `kind_and_path` reads it.

    Args:
        text: What to name.
        **fields: Of the spec.

    Raises:
        PoolError: Nothing is there.

    Examples:
        >>> source_named("parquet:s3://bucket/table").path, source_named("digits:").path
        ('s3://bucket/table', None)
    """
    kind, path = kind_and_path(text)
    kind = kind or guess_kind(text, fields.get("image_column", "image"))
    if kind != "torchvision":
        fields.pop("dataset", None)
    return SourceSpec(kind=kind, path=path, **fields)

"""Local paths and URIs."""

from __future__ import annotations

from pathlib import Path


def absolute_uri(uri: str) -> str:
    """A URI as it is, a local path made absolute: workers start in other directories.

    Examples:
        >>> absolute_uri("s3://bucket/run")
        's3://bucket/run'
    """
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())

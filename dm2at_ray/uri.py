"""Local paths and URIs."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def absolute_uri(uri: str) -> str:
    """A URI as it is, a local path made absolute, without `..`: workers start in other directories.

    Examples:
        >>> absolute_uri("s3://bucket/run")
        's3://bucket/run'
    """
    return uri if "://" in uri else os.path.abspath(Path(uri).expanduser())


def holds_secret(uri: str) -> bool:
    """Whether a URI has a key or a password in it, which configs and logs would show.

    Examples:
        >>> holds_secret("s3://key:secret@bucket/run"), holds_secret("gs://anonymous@bucket/run")
        (True, False)
    """
    parts = urlsplit(uri)
    # A user may be named; what stands behind a colon is a key or password.
    return ":" in parts.netloc.rpartition("@")[0] or not {"sig", "sas_token"}.isdisjoint(
        parse_qs(parts.query)
    )


def impatient(uri: str) -> str:
    """A Google URI that gives up on a silent store within half a minute; the library takes 15.

    Examples:
        >>> impatient("gs://bucket/run"), impatient("s3://bucket/run")
        ('gs://bucket/run?retry_limit_seconds=30', 's3://bucket/run')
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return uri
    return uri + ("&" if parts.query else "?") + "retry_limit_seconds=30"

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

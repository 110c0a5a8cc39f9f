"""Which format a file is of, by its first bytes."""

from __future__ import annotations

from dm2at_ray.errors import LabelError


def detect(data: bytes) -> str:
    """Name of the format that a file's content is of.

    Raises:
        LabelError: It is of none.

    Examples:
        >>> detect(b'[{"id": 1}]'), detect(b"sample_id,label\\n"), detect(b"PAR1"), detect(b"<?xml")
        ('label-studio', 'csv', 'parquet', 'cvat')
    """
    begin = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if begin.startswith(b"PAR1"):
        return "parquet"
    if begin.startswith((b"<", b"PK\x03\x04")):
        return "cvat"
    if begin.startswith((b"[", b"{")):
        return "label-studio"
    header = begin.split(b"\n", 1)[0]
    if b"sample_id" in header or b"annotation_id" in header:
        return "csv"
    raise LabelError(
        "neither CSV with a column sample_id, Parquet, Label Studio's JSON nor CVAT's XML; name its --format"
    )

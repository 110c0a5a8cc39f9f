"""Formats in which queries go out and labels come back: a new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from dm2at_ray.labeling.formats import csv, cvat, label_studio, parquet
from dm2at_ray.labeling.formats.base import CANNOT_TELL, Answer, Format, Picture, Sheet
from dm2at_ray.labeling.formats.detect import detect

__all__ = ["CANNOT_TELL", "FORMATS", "Answer", "Format", "Picture", "Sheet", "detect"]

FORMATS: dict[str, Format] = {
    "csv": csv,
    "parquet": parquet,
    "label-studio": label_studio,
    "cvat": cvat,
}

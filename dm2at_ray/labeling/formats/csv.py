"""A CSV file with a row for each query: the label goes into its column `label`."""

from __future__ import annotations

import csv
import io

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats.base import (
    Answer,
    Sheet,
    answer_text,
    neighbors_text,
    person,
    place_text,
    sample_in_picture,
)
from dm2at_ray.labeling.tasks import Task
from dm2at_ray.store.files import Files

INDEX = "queries.csv"
COLUMNS = ("sample_id", "label", "predicted", "score", "rank", "round", "picture", "uri", "row", "neighbors")
# Spreadsheets write what the country's decimal comma leaves them.
_DELIMITERS = ",;\t"


def write(sheet: Sheet, files: Files) -> None:
    """Write `queries.csv`, comma-separated UTF-8, with the labels that are there already filled in."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row(sheet, task) for task in sheet.tasks)
    files.write_bytes(INDEX, text.getvalue().encode())


def row(sheet: Sheet, task: Task) -> dict[str, object]:
    """The columns of one query, in their order."""
    return {
        "sample_id": task.sample_id,
        "label": answer_text(task),
        "predicted": task.predicted,
        "score": None if task.score is None else float(f"{task.score:.6g}"),
        "rank": task.rank,
        "round": task.round,
        "picture": sheet.picture(task.sample_id, task.uri),
        "uri": task.uri,
        "row": task.row,
        "neighbors": neighbors_text(task),
    }


def read(data: bytes) -> list[Answer]:
    """The rows, by the columns `sample_id` and `label`.

    Label Studio's CSV is read as well: a column `choice` stands for `label`, the picture's name in `image`
    for the id where pictures were uploaded by hand, and `annotator` tells who. Other columns mean nothing
    here. Comma, semicolon or tab may separate them, as spreadsheets have it.

    Raises:
        LabelError: It is not UTF-8, or has no such columns.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"not UTF-8 (byte {error.start}); save it as CSV UTF-8") from None
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = reader.fieldnames or []
    label = next((name for name in ("label", "choice") if name in columns), None)
    sample = next((name for name in ("sample_id", "image") if name in columns), None)
    if sample is None or label is None:
        raise LabelError(
            f"its columns are {', '.join(columns) or 'none'}; sample_id and label must be among them"
        )
    try:
        return [
            Answer(
                sample=_sample(line[sample] or "", is_picture=sample == "image"),
                label=(line[label] or "").strip() or None,
                where=f"line {reader.line_num}",
                by=person(line.get("annotator")),
                place=place_text(line.get("uri"), line.get("row")),
            )
            for line in reader
        ]
    except csv.Error as error:
        raise LabelError(f"line {reader.line_num}: {error}; save it as CSV UTF-8") from None


def _sample(text: str, *, is_picture: bool) -> str:
    return (is_picture and sample_in_picture(text)) or text.strip()

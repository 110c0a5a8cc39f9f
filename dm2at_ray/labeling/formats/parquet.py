"""A Parquet file with a row for each query, as in the CSV format."""

from __future__ import annotations

import pyarrow as pa

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats.base import Answer, Sheet, place_text
from dm2at_ray.labeling.formats.csv import row
from dm2at_ray.parquet import open_parquet
from dm2at_ray.store.files import Files

INDEX = "queries.parquet"
SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("score", pa.float32()),
        ("rank", pa.int32()),
        ("round", pa.int32()),
        ("picture", pa.string()),
        ("uri", pa.string()),
        ("row", pa.int64()),
        (
            "neighbors",
            pa.list_(
                pa.struct([("sample_id", pa.int64()), ("label", pa.string()), ("distance", pa.float32())])
            ),
        ),
    ]
)


def write(sheet: Sheet, files: Files) -> None:
    """Write `queries.parquet` (`SCHEMA`), the label null where there is none yet."""
    rows = [
        {
            **row(sheet, task),
            "label": row(sheet, task)["label"] or None,
            "neighbors": [
                {"sample_id": n.sample_id, "label": n.label, "distance": n.distance} for n in task.neighbors
            ],
        }
        for task in sheet.tasks
    ]
    files.write_table(INDEX, pa.Table.from_pylist(rows, SCHEMA))


def read(data: bytes) -> list[Answer]:
    """The rows, by the columns sample_id (integers or text) and label (text, or names that are integers).

    Raises:
        LabelError: It is no Parquet file, or has no such columns.
    """
    try:
        with open_parquet(pa.BufferReader(data)) as file:
            missing = {"sample_id", "label"} - set(file.schema_arrow.names)
            if missing:
                raise LabelError(
                    f"its columns are {', '.join(file.schema_arrow.names)}; {' and '.join(sorted(missing))} "
                    "must be among them"
                )
            names = ["sample_id", "label", "uri", "row"]
            table = file.read(columns=[name for name in names if name in file.schema_arrow.names])
    except pa.ArrowException as error:
        raise LabelError(f"{' '.join(str(error).split())}; give a Parquet file") from None
    return [
        Answer(
            sample=_text(line["sample_id"]) or "",
            label=_text(line["label"]),
            where=f"row {place}",
            place=place_text(line.get("uri"), line.get("row")),
        )
        for place, line in enumerate(table.to_pylist())
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value).strip() or None

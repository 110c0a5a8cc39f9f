"""Opening Parquet files that anybody may have written: their columns are data, never code."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PLAIN_TYPES = ("arrow.", "ray.data.arrow_tensor", "ray.data.arrow_variable_shaped_tensor")
"""Extension types by how their names begin: Arrow's own, and Ray's tensors. Ray has another one, whose values
are pickles that run when they are looked at."""


class ForeignTypeError(pa.ArrowInvalid):
    """A column is of a type that reading may run code for."""


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:
    """`pyarrow.parquet.ParquetFile` of a file whose columns are plain values.

    Args:
        source: Path or open file.
        **options: Of ParquetFile.

    Raises:
        ForeignTypeError: A column has another extension type than `PLAIN_TYPES`.
    """
    file = pq.ParquetFile(source, **options)
    for field in file.schema_arrow:
        name = _foreign(field)
        if name is not None:
            file.close()
            raise ForeignTypeError(f"column {field.name} is of type {name}, whose reading may run code")
    return file


def _foreign(field: pa.Field) -> str | None:
    """Name of the first extension type in a field that is not plain; None where there is none."""
    # Where nobody has registered the type, its name is left here.
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")
    column = field.type
    if isinstance(column, pa.BaseExtensionType):
        name, column = column.extension_name, column.storage_type
    if name and not name.startswith(PLAIN_TYPES):
        return name
    inner = [column.field(index) for index in range(column.num_fields)]
    if pa.types.is_dictionary(column):
        inner.append(pa.field("values", column.value_type))
    return next((name for name in map(_foreign, inner) if name), None)

"""Label columns as Arrow has them: integers or strings, to class numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

LabelKind = Literal["int", "string"]
# More classes than this means that the column holds something else, such as an id.
MAX_CLASSES = 100_000


def label_kind(label_type: pa.DataType) -> LabelKind | None:
    """``"int"`` or ``"string"`` by the column's type (dictionaries by their values), else None."""
    if pa.types.is_dictionary(label_type):
        label_type = label_type.value_type
    if pa.types.is_integer(label_type) or pa.types.is_boolean(label_type):
        return "int"
    if pa.types.is_string(label_type) or pa.types.is_large_string(label_type):
        return "string"
    return None


def plain_labels(labels: pa.Array, kind: LabelKind) -> pa.Array:
    """int64 or string labels, null where unknown; a negative number counts as unknown."""
    if kind == "string":
        return labels.cast(pa.string())
    numbers = labels.cast(pa.int64())
    return pc.if_else(pc.less(numbers, 0), None, numbers)


def classes_of(label_columns: Iterable[pa.Array], kind: LabelKind) -> list[str]:
    """Class names of plain labels: the strings sorted, or ``"0"`` up to the largest number.

    Raises:
        ValueError: there are more than ``MAX_CLASSES``.
    """
    seen: set[str] = set()
    largest = -1
    for labels in label_columns:
        if kind == "string":
            seen.update(name for name in pc.unique(labels).to_pylist() if name is not None)
        else:
            largest = (
                max(largest, pc.max(labels).as_py() or 0) if labels.null_count < len(labels) else largest
            )
        if max(len(seen), largest + 1) > MAX_CLASSES:
            raise ValueError(f"more than {MAX_CLASSES} classes")
    return sorted(seen) if kind == "string" else [str(number) for number in range(largest + 1)]


def class_numbers(labels: pa.Array, kind: LabelKind, names: list[str]) -> pa.Array:
    """Plain labels as int64 places in ``names``, null where unknown.

    Raises:
        ValueError: a label is none of the classes.

    Examples:
        >>> class_numbers(pa.array(["cat", None, "ape"]), "string", ["ape", "cat"]).to_pylist()
        [1, None, 0]
    """
    numbers = pc.index_in(labels, pa.array(names, pa.string())) if kind == "string" else labels
    numbers = numbers.cast(pa.int64())
    bad = pc.and_(labels.is_valid(), pc.or_kleene(numbers.is_null(), pc.greater_equal(numbers, len(names))))
    if pc.any(bad).as_py():
        raise ValueError(f"label {labels.filter(bad)[0].as_py()!r} is none of the {len(names)} classes")
    return numbers


def huggingface_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names of a Hugging Face ``ClassLabel`` column from the file's metadata, else None."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None

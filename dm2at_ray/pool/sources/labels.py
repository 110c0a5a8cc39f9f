"""Labels as sources have them, to class numbers.

They come as integers; as strings, which are names; or as text, from tar members and CSV, where a label in
digits may be a number or a name: that all of them show together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

LabelKind = Literal["int", "string", "text"]
# More classes than this means that the column holds something else, such as an id.
MAX_CLASSES = 100_000
_NUMBER = r"^[0-9]{1,18}$"
_NEGATIVE = r"^-[0-9]+$"


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
    """int64 labels, or strings, null where unknown; a negative number counts as unknown, an empty text too.

    Examples:
        >>> plain_labels(pa.array([" cat ", "", "-1", None, "7"]), "text").to_pylist()
        ['cat', None, None, None, '7']
        >>> plain_labels(pa.array([3, -1, None], pa.int8()), "int").to_pylist()
        [3, None, None]
    """
    if kind == "int":
        numbers = labels.cast(pa.int64())
        return pc.if_else(pc.less(numbers, 0), None, numbers)
    strings = labels.cast(pa.string())
    if kind == "string":
        return strings
    texts = pc.utf8_trim_whitespace(strings)
    unknown = pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, _NEGATIVE))
    return pc.if_else(pc.fill_null(unknown, True), pa.scalar(None, pa.string()), texts)


def classes_of(label_columns: Iterable[pa.Array], kind: LabelKind) -> list[str]:
    """Class names of plain labels: ``"0"`` up to the largest where all are numbers, else the labels sorted.

    Raises:
        ValueError: there are more than ``MAX_CLASSES``.

    Examples:
        >>> classes_of([pa.array(["2", "0"]), pa.array([None, "1"])], "text")
        ['0', '1', '2']
        >>> classes_of([pa.array(["dog", "7"])], "text"), classes_of([pa.array(["2"])], "string")
        (['7', 'dog'], ['2'])
    """
    seen: set[str] = set()
    for labels in label_columns:
        seen.update(str(label) for label in pc.unique(labels).to_pylist() if label is not None)
        if len(seen) > MAX_CLASSES:
            raise _too_many()
    if kind == "string" or (kind == "text" and not all(map(_is_number, seen))):
        return sorted(seen)
    largest = max(map(int, seen), default=-1)
    if largest >= MAX_CLASSES:
        raise _too_many()
    return [str(number) for number in range(largest + 1)]


def class_numbers(labels: pa.Array, kind: LabelKind, names: list[str]) -> pa.Array:
    """Plain labels as int64 places in ``names``, null where unknown; a text by name, else by number.

    Raises:
        ValueError: a label is none of the classes.

    Examples:
        >>> class_numbers(pa.array(["cat", None, "ape"]), "string", ["ape", "cat"]).to_pylist()
        [1, None, 0]
        >>> class_numbers(pa.array(["cat", None, "0"]), "text", ["ape", "cat"]).to_pylist()
        [1, None, 0]
    """
    if kind == "int":
        numbers = labels.cast(pa.int64())
    else:
        numbers = pc.index_in(labels, pa.array(names, pa.string())).cast(pa.int64())
    if kind == "text":
        is_number = pc.fill_null(pc.match_substring_regex(labels, _NUMBER), False)
        by_number = pc.if_else(is_number, labels, pa.scalar(None, pa.string())).cast(pa.int64())
        numbers = pc.coalesce(numbers, by_number)
    numbers = pc.if_else(pc.less(numbers, len(names)), numbers, pa.scalar(None, pa.int64()))
    bad = pc.and_(labels.is_valid(), numbers.is_null())
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


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) <= 18


def _too_many() -> ValueError:
    return ValueError(f"more than {MAX_CLASSES} classes")

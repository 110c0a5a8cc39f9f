"""Labels that come as text, from tar members or CSV: class names, or class numbers in digits."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.pool.sources.arrow_labels import MAX_CLASSES

_NUMBER = r"^[0-9]{1,18}$"
_NEGATIVE = r"^-[0-9]+$"


def clean_texts(labels: pa.Array) -> pa.Array:
    """Labels as trimmed strings, null where unknown: an empty one and a negative number count as unknown.

    Examples:
        >>> clean_texts(pa.array([" cat ", "", "-1", None, "7"])).to_pylist()
        ['cat', None, None, None, '7']
    """
    texts = pc.utf8_trim_whitespace(labels.cast(pa.string()))
    unknown = pc.or_(pc.equal(texts, ""), pc.match_substring_regex(texts, _NEGATIVE))
    return pc.if_else(pc.fill_null(unknown, True), pa.scalar(None, pa.string()), texts)


def text_classes(label_columns: Iterable[pa.Array]) -> list[str]:
    """Class names of clean labels: ``"0"`` up to the largest where all are numbers, else the labels sorted.

    Raises:
        ValueError: there are more than ``MAX_CLASSES``.

    Examples:
        >>> text_classes([pa.array(["2", "0"]), pa.array([None, "1"])])
        ['0', '1', '2']
        >>> text_classes([pa.array(["dog", "7"])])
        ['7', 'dog']
    """
    seen: set[str] = set()
    for labels in label_columns:
        seen.update(label for label in pc.unique(labels).to_pylist() if label is not None)
        if len(seen) > MAX_CLASSES:
            raise ValueError(f"more than {MAX_CLASSES} classes")
    if not all(label.isascii() and label.isdigit() and len(label) <= 18 for label in seen):
        return sorted(seen)
    largest = max(map(int, seen), default=-1)
    if largest >= MAX_CLASSES:
        raise ValueError(f"more than {MAX_CLASSES} classes")
    return [str(number) for number in range(largest + 1)]


def text_numbers(labels: pa.Array, names: list[str]) -> pa.Array:
    """Clean labels as int64 places in ``names``, null where unknown: by name, else by number.

    Raises:
        ValueError: a label is none of the classes.

    Examples:
        >>> text_numbers(pa.array(["cat", None, "0"]), ["ape", "cat"]).to_pylist()
        [1, None, 0]
    """
    by_name = pc.index_in(labels, pa.array(names, pa.string())).cast(pa.int64())
    is_number = pc.fill_null(pc.match_substring_regex(labels, _NUMBER), False)
    by_number = pc.if_else(is_number, labels, pa.scalar(None, pa.string())).cast(pa.int64())
    by_number = pc.if_else(pc.less(by_number, len(names)), by_number, pa.scalar(None, pa.int64()))
    numbers = pc.coalesce(by_name, by_number)
    bad = pc.and_(labels.is_valid(), numbers.is_null())
    if pc.any(bad).as_py():
        raise ValueError(f"label {labels.filter(bad)[0].as_py()!r} is none of the {len(names)} classes")
    return numbers

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.pool.duplicates import find_duplicates


def tables(contents: list[int | None], rows: int = 7) -> Iterator[pa.Table]:
    hashes = [
        None if content is None else hashlib.blake2b(bytes([content]), digest_size=16).digest()
        for content in contents
    ]
    for start in range(0, len(contents), rows):
        part = hashes[start : start + rows]
        ids = np.arange(start, start + len(part))
        yield pa.table({"sample_id": ids, "hash": pa.array(part, pa.binary(16))})


def by_hand(contents: list[int | None], first_new: int = 0) -> dict[int, int]:
    first: dict[int, int] = {}
    found = {}
    for sample_id, content in enumerate(contents):
        if content is not None and first.setdefault(content, sample_id) != sample_id:
            found[sample_id] = first[content]
    return {sample_id: original for sample_id, original in found.items() if sample_id >= first_new}


@pytest.mark.parametrize("at_once", [1_000, 20, 3])
@pytest.mark.parametrize("first_new", [0, 60])
def test_find_duplicates__the_lowest_id_however_many_passes(at_once: int, first_new: int) -> None:
    draw = np.random.default_rng(0).integers(0, 50, 100)
    contents = [None if value == 49 else int(value) for value in draw]
    ids, firsts = find_duplicates(lambda: tables(contents), 100, first_new, at_once)
    assert dict(zip(ids.tolist(), firsts.tolist(), strict=True)) == by_hand(contents, first_new)
    assert ids.tolist() == sorted(ids)


def test_find_duplicates__hashes_that_agree_in_half_of_their_bits_differ() -> None:
    same, other = b"12345678abcdefgh", b"12345678ABCDEFGH"
    table = pa.table({"sample_id": [0, 1, 2, 3], "hash": pa.array([same, other, same, other], pa.binary(16))})
    ids, firsts = find_duplicates(lambda: iter([table]), 4)
    assert (ids.tolist(), firsts.tolist()) == ([2, 3], [0, 1])


def test_find_duplicates__of_slices() -> None:
    whole = next(tables([1, 2, 1, 2, 1], rows=5))
    ids, firsts = find_duplicates(lambda: iter([whole.slice(1, 2), whole.slice(3, 2)]), 5)
    assert (ids.tolist(), firsts.tolist()) == ([3, 4], [1, 2])


def test_find_duplicates__of_nothing() -> None:
    ids, firsts = find_duplicates(lambda: iter([]), 0)
    assert len(ids) == len(firsts) == 0

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.neighbors.result import Neighbors, merge

INF = float("inf")


def neighbors(*rows: list[tuple[int, float]]) -> Neighbors:
    """Build a result from rows of (id, distance)."""
    return Neighbors(
        torch.tensor([[i for i, _ in row] for row in rows], dtype=torch.int64).reshape(len(rows), -1),
        torch.tensor([[d for _, d in row] for row in rows], dtype=torch.float32).reshape(len(rows), -1),
    )


def as_rows(found: Neighbors) -> list[list[tuple[int, float]]]:
    return [
        list(zip(i, d, strict=True))
        for i, d in zip(found.ids.tolist(), found.distances.tolist(), strict=True)
    ]


def test_merge__keeps_the_nearest_of_both():
    a = neighbors([(10, 1.0), (11, 4.0)])
    b = neighbors([(20, 2.0), (21, 3.0)])
    assert as_rows(merge([a, b], 3)) == [[(10, 1.0), (20, 2.0), (21, 3.0)]]


def test_merge__tie_goes_to_the_smaller_id():
    a = neighbors([(9, 1.0), (30, 2.0)])
    b = neighbors([(4, 1.0), (20, 2.0)])
    assert as_rows(merge([a, b], 3)) == [[(4, 1.0), (9, 1.0), (20, 2.0)]]


def test_merge__missing_stay_last_even_behind_infinite_distances():
    a = neighbors([(5, 1.0), (-1, INF)])
    b = neighbors([(7, INF), (-1, INF)])
    assert as_rows(merge([a, b], 4)) == [[(5, 1.0), (7, INF), (-1, INF), (-1, INF)]]


def test_merge__pads_when_parts_have_fewer_than_k():
    assert as_rows(merge([neighbors([(5, 1.0)])], 2)) == [[(5, 1.0), (-1, INF)]]


def test_merge__ids_beyond_32_bits():
    big = 2**62
    assert as_rows(merge([neighbors([(big + 1, 1.0)]), neighbors([(big, 1.0)])], 1)) == [[(big, 1.0)]]


def test_merge__no_rows():
    none = Neighbors(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    assert merge([none, none], 2).ids.shape == (0, 2)


@pytest.mark.parametrize(("parts", "k"), [([], 1), ([neighbors([(1, 1.0)])], 0)])
def test_merge__refuses_nothing_to_merge(parts, k):
    with pytest.raises(ValueError, match=r"at least"):
        merge(parts, k)


def test_merge__refuses_parts_of_different_rows():
    with pytest.raises(ValueError, match=r"different numbers of rows: \[1, 2\]"):
        merge([neighbors([(1, 1.0)]), neighbors([(1, 1.0)], [(2, 1.0)])], 1)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12),
    st.integers(1, 5),
    st.data(),
)
def test_merge__any_order_and_grouping_gives_the_sorted_list(distances, k, data):
    everything = list(enumerate(distances))
    homes = data.draw(st.lists(st.integers(0, 2), min_size=len(everything), max_size=len(everything)))
    parts = []
    for home in range(3):
        row = sorted(
            (p for p, h in zip(everything, homes, strict=True) if h == home), key=lambda p: (p[1], p[0])
        )
        parts.append(neighbors((row + [(-1, INF)] * k)[:k]))
    a, b, c = parts
    expected = sorted(everything, key=lambda p: (p[1], p[0]))[:k]
    expected += [(-1, INF)] * (k - len(expected))
    for merged in (merge([a, b, c], k), merge([merge([c, a], k), b], k), merge([a, merge([c, b], k)], k)):
        assert as_rows(merged) == [expected]


def test_neighbors__numpy_for_arrow():
    ids, distances = neighbors([(3, 1.0)]).numpy()
    assert (ids.dtype, distances.dtype) == (np.int64, np.float32)


def test_neighbors__refuses_other_types():
    with pytest.raises(ValueError, match="int64"):
        Neighbors(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="differ"):
        Neighbors(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 2))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.algorithm.acquisition import Top, merge_tops, top_queries


def test_top_queries__highest_first_ties_by_id() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    ids = np.array([40, 50, 20, 30, 10])

    assert ids[top_queries(scores, ids, budget=3)].tolist() == [50, 20, 30]


@pytest.mark.parametrize(("budget", "expected"), [(0, []), (2, [1, 0]), (9, [1, 0])])
def test_top_queries__budget_of_nothing_and_beyond_the_pool(budget: int, expected: list[int]) -> None:
    assert top_queries(np.array([0.1, 0.2]), np.array([1, 2]), budget).tolist() == expected


def test_top_queries__nan_is_refused() -> None:
    with pytest.raises(ValueError, match="1 scores are NaN, the first that of sample 8"):
        top_queries(np.array([0.1, np.nan]), np.array([7, 8]), budget=1)


# Few different scores, so that ties are common.
scored_pool = st.lists(st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.25, 2.0]), min_size=1, max_size=30)


@given(scored_pool, st.integers(0, 35), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_top_queries__agrees_with_sorting_in_any_order(scores: list[float], budget: int, random) -> None:
    rows = list(enumerate(scores))
    expected = [sample_id for sample_id, score in sorted(rows, key=lambda row: (-row[1], row[0]))][:budget]

    random.shuffle(rows)
    ids, shuffled = (np.array(column) for column in zip(*rows, strict=True))

    assert ids[top_queries(shuffled.astype(np.float32), ids, budget)].tolist() == expected


@given(scored_pool, st.integers(0, 10), st.integers(1, 7))
@settings(deadline=None)
def test_merge_tops__agrees_with_sorting_the_whole(scores: list[float], budget: int, part_size: int) -> None:
    all_ids, all_scores = np.arange(len(scores)), np.array(scores, dtype=np.float32)
    parts = []
    for first in range(0, len(scores), part_size):
        ids, values = all_ids[first : first + part_size], all_scores[first : first + part_size]
        best = top_queries(values, ids, budget)
        parts.append(Top(ids[best], values[best]))

    merged = merge_tops(parts, budget)

    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:budget]
    assert merged.sample_ids.tolist() == expected
    assert merged.scores.tolist() == all_scores[expected].tolist()
    assert (merged.sample_ids.dtype, merged.scores.dtype) == (np.int64, np.float32)

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors import merge
from dm2at_ray.neighbors import plan as module
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.plan import Plan, Search, reference_rows
from dm2at_ray.neighbors.result import Neighbors

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("rows", "dims", "k", "device", "engine"),
    [
        (1_000, 64, 10, "cpu", "exact"),
        (60_000, 512, 10, "cpu", "exact"),
        (10 * MILLION, 512, 10, "cpu", "routed"),
        # So many neighbours are most of what any cells hold.
        (10 * MILLION, 512, 200_000, "cpu", "exact"),
        (60_000, 512, 10, "cuda", "exact"),
        (2 * MILLION, 512, 10, "cuda", "shortlist"),
        # The radius to so many neighbours cannot be measured on the reference rows.
        (2 * MILLION, 512, 900, "cuda", "exact"),
        (10 * MILLION, 512, 10, "cuda", "routed"),
    ],
)
def test_chosen_engine__auto(rows, dims, k, device, engine):
    assert Search(k).chosen_engine(rows, dims, device) == engine


@pytest.mark.parametrize("engine", ["exact", "shortlist", "routed"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_chosen_engine__one_that_is_named_is_taken(engine, device):
    for rows in (10, 10 * MILLION):
        assert Search(10, engine).chosen_engine(rows, 512, device) == engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0 must be at least 1"),
        ({"engine": "fast"}, "engine='fast' is unknown; use one of: auto, exact, shortlist, routed"),
        ({"recall": 0.0}, "recall=0.0 must lie between 0 and 1; engine exact finds all"),
        ({"recall": 1.0}, "recall=1.0 must lie between 0 and 1; engine exact finds all"),
        ({"recall": float("nan")}, "recall=nan"),
    ],
)
def test_search__refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        Search(**{"k": 3, **options})


def test_reference_rows__no_more_than_there_are_and_enough_for_the_cells():
    assert reference_rows("exact", 5) == 5
    assert reference_rows("exact", 10 * MILLION) == 65_536
    assert reference_rows("routed", 10 * MILLION) > 65_536


def rows_of(seed: int, n: int, dims: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dims)).astype(np.float32)


def squared_of_codes(plan: Plan, x: np.ndarray) -> np.ndarray:
    """Squared L2 (N, S) from codes of rows to those of the reference, in whole numbers."""
    codes = plan.quantizer.encode(torch.from_numpy(x))[0].numpy().astype(np.int64)
    return ((codes[:, None] - plan.reference.codes.numpy().astype(np.int64)) ** 2).sum(axis=2)


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 300),
    dims=st.integers(1, 20),
    k=st.integers(1, 12),
)
def test_guide__radius_reaches_the_rank_th_reference_row(seed, n, dims, k):
    x, ids = rows_of(seed, n, dims), np.arange(n) * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALLEST_REFERENCE", 64)
        plan = Plan.fit(Search(k, "shortlist"), ids, x, n)
        block = plan.block(ids, x)
        radius = plan.guide(block)
        assert torch.equal(plan.encode(block, radius).radius, radius)
    assert len(plan.reference) == min(n, 64)
    # Sixteen candidates for each neighbour are expected within; eight reference rows there must be.
    wanted = 16 * max(k, 8)
    assert plan.rank == max(8, -(-wanted * len(plan.reference) // n))
    squared = squared_of_codes(plan, x)
    others = ids[:, None] != plan.reference.sample_ids.numpy()
    for row in range(n):
        distances = np.sort(squared[row, others[row]])
        if len(distances) >= plan.rank:
            assert radius[row] == distances[plan.rank - 1]
        else:
            assert radius[row] >= squared[row].max()


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 200),
    dims=st.integers(1, 20),
    k=st.integers(1, 12),
    weights=st.sampled_from([(1.0, 1.0), (0.0, 1.0), (0.3, 2.0)]),
    size=st.sampled_from([16, 64]),
)
@example(seed=0, n=12, dims=5, k=12, weights=(1.0, 1.0), size=64)
@example(seed=0, n=13, dims=5, k=12, weights=(1.0, 1.0), size=64)
@example(seed=0, n=300, dims=5, k=12, weights=(1.0, 1.0), size=16)
def test_limits__are_the_farthest_of_k_reference_rows(reference, seed, n, dims, k, weights, size):
    """What a GPU's certified search begins with: k rows are known to be no farther."""
    x, ids = rows_of(seed, n, dims), np.arange(n) * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALLEST_REFERENCE", size)
        patch.setattr(module, "LARGEST_REFERENCE", size)
        plan = Plan.fit(Search(k, "exact", Metric(*weights)), ids, x, n)
    block = plan.block(ids, x)
    limits = plan._limits(block, plan._nearest_references(block)).numpy()
    at = plan.reference.sample_ids.numpy() // 2
    d, squared = reference(x, *weights)[:, at], squared_of_codes(plan, x)
    squared[ids[:, None] == ids[at]] = np.iinfo(np.int64).max
    for row in range(n):
        others = np.isfinite(d[row]).sum()
        if others < k:
            assert np.isinf(limits[row])
            continue
        kth = np.sort(squared[row])[k - 1]
        assert np.sort(d[row])[k - 1] <= limits[row]
        if np.isfinite(limits[row]):
            assert limits[row] <= d[row, squared[row] <= kth].max() * (1 + 1e-4)
    if len(at) > k + 1:
        assert np.isfinite(limits).all()


@pytest.mark.parametrize("engine", ["exact", "routed"])
def test_guide__a_cpu_begins_its_certified_search_with_no_limit(engine):
    x = rows_of(0, 40, 3)
    plan = Plan.fit(Search(2, engine), np.arange(40), x, 40)
    encoded = plan.encode(plan.block(np.arange(40), x), plan.guide(plan.block(np.arange(40), x)))
    assert encoded.radius is None
    assert torch.isinf(encoded.limit).all()


def test_encode__order_is_the_rank_of_the_id():
    x = rows_of(0, 4, 3)
    plan = Plan.fit(Search(2, "exact"), np.arange(4), x, 4)
    block = plan.block(np.array([70, 5, 90, 6]), x)
    encoded = plan.encode(block, plan.guide(block))
    assert encoded.order.tolist() == [2, 0, 3, 1]
    assert encoded.sample_ids.tolist() == [70, 5, 90, 6]
    codes, residuals = plan.quantizer.encode(block.features)
    assert torch.equal(encoded.codes, codes)
    assert torch.equal(encoded.residuals, residuals)


@pytest.mark.parametrize("engine", ["exact", "shortlist", "routed"])
@pytest.mark.parametrize("normalize", ["none", "l2", "standardize"])
def test_fit__does_not_change_the_sample_and_normalizes_the_reference(engine, normalize):
    x = rows_of(0, 300, 5)
    before = x.copy()
    plan = Plan.fit(Search(3, engine, normalize=normalize), np.arange(300), x, 300)
    np.testing.assert_array_equal(x, before)
    assert torch.equal(plan.reference.features, plan.normalizer(torch.from_numpy(x)))
    assert (plan.cells is not None) == (engine == "routed")


def test_widened__more_candidates_or_more_cells():
    x = rows_of(0, 2000, 5)
    shortlist = Plan.fit(Search(3, "shortlist"), np.arange(2000), x, 2000)
    assert shortlist.widened().rank == 2 * shortlist.rank
    block = shortlist.block(np.arange(2000), x)
    assert (shortlist.widened().guide(block) > shortlist.guide(block)).all()
    routed = module.replace(Plan.fit(Search(3, "routed"), np.arange(2000), x, 2000), probe_count=3)
    assert routed.widened().probe_count == 5
    assert routed.widened().rank == routed.rank
    widest = module.replace(routed, probe_count=len(routed.cells))
    assert widest.widened().probe_count == len(routed.cells)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("engine", ["exact", "shortlist"])
def test_search_pair__single_row_and_empty_block(engine):
    x = np.array([[1.0, 1.0], [4.0, 5.0]])
    plan = Plan.fit(Search(2, engine), np.array([7, 9]), x, 2)

    def encoded(at: slice):
        block = plan.block(np.array([7, 9])[at], x[at])
        return plan.encode(block, plan.guide(block))

    none, one, other = encoded(slice(0)), encoded(slice(1)), encoded(slice(1, 2))
    assert [len(found) for found in plan.search_pair(none, none)] == [0, 0]
    assert plan.search_pair(one, one)[0].ids.tolist() == [[-1, -1]]
    for of_one, of_none in (plan.search_pair(one, none), plan.search_pair(none, one)[::-1]):
        assert of_one.ids.tolist() == [[-1, -1]]
        assert of_one.distances.tolist() == [[np.inf, np.inf]]
        assert of_none.ids.shape == (0, 2)
    of_one, of_other = plan.search_pair(one, other)
    assert (of_one.ids.tolist(), of_other.ids.tolist()) == ([[9, -1]], [[7, -1]])
    assert of_one.distances.tolist() == of_other.distances.tolist() == [[12.0, np.inf]]


def by_pairs(plan: Plan, x: np.ndarray, ids: np.ndarray, cuts: list[int], threads: int = 1) -> Neighbors:
    """Search a pool cut into blocks as the distributed stage does: all pairs of blocks, then merge."""
    blocks = []
    for p, q in itertools.pairwise([0, *cuts, len(x)]):
        block = plan.block(ids[p:q], x[p:q])
        blocks.append(plan.encode(block, plan.guide(block)))
    parts: list[list[Neighbors]] = [[] for _ in blocks]
    for p, a in enumerate(blocks):
        parts[p].append(plan.search_pair(a, a, threads)[0])
        for q in range(p):
            of_a, of_b = plan.search_pair(a, blocks[q], threads)
            parts[p].append(of_a)
            parts[q].append(of_b)
    merged = [merge(part, plan.search.k) for part in parts]
    return Neighbors(torch.cat([m.ids for m in merged]), torch.cat([m.distances for m in merged]))


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 120),
    seed=st.integers(0, 99),
    k=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 120), max_size=5),
    engine=st.sampled_from(["exact", "shortlist"]),
    threads=st.integers(1, 3),
)
def test_search_pair__pool_does_not_depend_on_the_blocks(n, seed, k, cuts, engine, threads):
    # Many ties; blocks of any size, some of them empty; ids in no order.
    x = rows_of(seed, n, 5).round(1)
    ids = np.random.default_rng(seed).permutation(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALLEST_REFERENCE", 32)
        plan = Plan.fit(Search(k, engine), ids, x, n)
        whole = by_pairs(plan, x, ids, [])
        parts = by_pairs(plan, x, ids, sorted(min(cut, n) for cut in cuts), threads)
    assert torch.equal(parts.ids, whole.ids)
    assert torch.equal(parts.distances, whole.distances)

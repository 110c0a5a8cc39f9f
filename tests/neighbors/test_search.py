from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.neighbors import TILE, Block, Neighbors, choose_engine, merge, search, search_pair

ENGINE_NAMES = ["exact", "shortlist"]


def assert_same_bits(found: Neighbors, expected: Neighbors) -> None:
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.distances, expected.distances)


def assert_nearest(found: Neighbors, d: np.ndarray, k: int) -> None:
    """Hold a result against float64 D of all pairs: right distances, of the right pairs, no pair twice."""
    ids, distances = found.numpy()
    tiny = 1e-6 * np.where(np.isinf(d), 0, d).max()
    np.testing.assert_allclose(distances, np.sort(d, axis=1)[:, :k], rtol=2e-6, atol=tiny)
    np.testing.assert_allclose(distances, np.take_along_axis(d, ids, axis=1), rtol=2e-6, atol=tiny)
    assert all(len(set(row)) == k for row in ids.tolist())
    later = np.diff(distances, axis=1)
    assert (later >= 0).all()
    assert (np.diff(ids, axis=1)[later == 0] > 0).all()


def by_pairs(x: np.ndarray, ids: np.ndarray, cuts: list[int], k: int, engine: str) -> Neighbors:
    """Search a pool cut into blocks as the distributed stage does: all pairs of blocks, then merge."""
    edges = [0, *cuts, len(x)]
    blocks = [Block.make(ids[p:q], x[p:q]) for p, q in itertools.pairwise(edges)]
    parts: list[list[Neighbors]] = [[] for _ in blocks]
    for p, a in enumerate(blocks):
        parts[p].append(search_pair(a, a, k, engine=engine)[0])
        for q in range(p):
            of_a, of_b = search_pair(a, blocks[q], k, engine=engine)
            parts[p].append(of_a)
            parts[q].append(of_b)
    merged = [merge(part, k) for part in parts]
    return Neighbors(torch.cat([m.ids for m in merged]), torch.cat([m.distances for m in merged]))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_search__worked_by_hand(engine):
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, -1.0]])
    found = search(x, 2, engine=engine)
    # Samples 2 and 3 are both at 1 + 1 from sample 0: the smaller id comes first.
    assert found.ids.tolist() == [[2, 3], [2, 0], [0, 3], [0, 2]]
    root = np.sqrt
    expected = [[2, 2], [6 + root(18), 7 + root(25)], [2, 4], [2, 4]]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-6)


def test_search__agrees_with_scikit_learn(digits_features, reference):
    d = reference(digits_features)
    np.fill_diagonal(d, 0)
    oracle = NearestNeighbors(n_neighbors=10, metric="precomputed").fit(d)
    distances, ids = oracle.kneighbors()
    found = search(digits_features, 10, engine="exact")
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert np.mean(found.ids.numpy() == ids) > 0.999


shapes = st.tuples(st.integers(2, 40), st.integers(1, 9))


@settings(max_examples=80, deadline=None)
@given(
    shape=shapes,
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    kind=st.sampled_from(["gauss", "duplicates", "equal", "zeros among", "integers"]),
    weights=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)]),
    engine=st.sampled_from(ENGINE_NAMES),
    data=st.data(),
)
def test_search__agrees_with_float64(reference, shape, seed, scale, kind, weights, engine, data):
    n, d = shape
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, d)).astype(np.float32)
    if kind == "duplicates":
        x = x[random.integers(0, max(1, n // 3), n)]
    elif kind == "equal":
        x = np.repeat(x[:1], n, axis=0)
    elif kind == "zeros among":
        x[random.random(n) < 0.5] = 0
    elif kind == "integers":
        x = random.integers(0, 3, (n, d)).astype(np.float32)
    x *= np.float32(scale)
    k = data.draw(st.one_of(st.just(n - 1), st.integers(1, n - 1)), label="k")
    found = search(x, k, engine=engine, l1_weight=weights[0], l2_weight=weights[1])
    assert_nearest(found, reference(x, *weights), k)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(30, 300),
    seed=st.integers(0, 99),
    k=st.integers(1, 12),
    cuts=st.sets(st.integers(1, 29), max_size=6),
)
@example(n=300, seed=0, k=3, cuts=set())
@example(n=300, seed=0, k=3, cuts={10})
@example(n=300, seed=0, k=3, cuts={1, 29})
def test_search_pair__exact_does_not_depend_on_the_blocks(n, seed, k, cuts):
    x = np.random.default_rng(seed).random((n, 5), dtype=np.float32).round(1)
    places = sorted({max(1, cut * n // 30) for cut in cuts})
    ids = np.arange(n)
    assert_same_bits(by_pairs(x, ids, places, k, "exact"), by_pairs(x, ids, [], k, "exact"))


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_search_pair__pool_does_not_depend_on_the_blocks(digits_features, engine, blocks):
    # Ids with gaps, as queries leave them: 9 tiles of some 200 rows.
    ids = np.arange(len(digits_features)) * 5
    places = np.searchsorted(ids // TILE, np.linspace(0, 9, blocks + 1).round()[1:-1]).tolist()
    assert len(places) == blocks - 1
    whole = search(digits_features, 5, sample_ids=ids, engine=engine)
    assert_same_bits(by_pairs(digits_features, ids, places, 5, engine), whole)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_search__block_rows_change_nothing(digits_features, engine):
    x = np.concatenate([digits_features, digits_features[::-1] * 1.3])[:2500]
    whole = search(x, 4, engine=engine)
    assert_same_bits(search(x, 4, engine=engine, block_rows=1024), whole)
    assert_same_bits(search(x, 4, engine=engine, block_rows=2100), whole)


def test_search_pair__rows_of_two_blocks(reference):
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    a, b = Block.make(np.arange(20), x[:20]), Block.make(np.arange(100, 130), x[20:])
    of_a, of_b = search_pair(a, b, 3, engine="exact")
    d = reference(x)[:20, 20:]
    np.testing.assert_array_equal(of_a.ids, 100 + d.argsort(axis=1)[:, :3])
    np.testing.assert_array_equal(of_b.ids, d.T.argsort(axis=1)[:, :3])
    again_b, again_a = search_pair(b, a, 3, engine="exact")
    assert_same_bits(again_a, of_a)
    assert_same_bits(again_b, of_b)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_search_pair__a_copy_of_a_block_is_the_same_block(engine):
    x = np.random.default_rng(0).standard_normal((30, 3))
    a, copy = Block.make(np.arange(30), x), Block.make(np.arange(30), x)
    of_a, of_copy = search_pair(a, copy, 2, engine=engine)
    assert_same_bits(of_a, of_copy)
    assert (of_a.ids != torch.arange(30)[:, None]).all()


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_search_pair__single_row_and_empty_block(engine):
    one = Block.make(np.array([7]), np.ones((1, 3)))
    none = Block.make(np.zeros(0, np.int64), np.ones((0, 3)))
    assert search_pair(one, one, 2, engine=engine)[0].ids.tolist() == [[-1, -1]]
    of_one, of_none = search_pair(one, none, 2, engine=engine)
    assert of_one.ids.tolist() == [[-1, -1]]
    assert of_none.ids.shape == (0, 2)
    assert search_pair(none, none, 2, engine=engine)[0].ids.shape == (0, 2)


def test_search_pair__refuses_overlapping_blocks():
    a, b = Block.make(np.array([0, 2]), np.ones((2, 1))), Block.make(np.array([1, 3]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="overlap"):
        search_pair(a, b, 1, engine="exact")


def test_search__sample_ids_in_any_order(reference):
    random = np.random.default_rng(3)
    x = random.standard_normal((60, 4)).astype(np.float32)
    ids = random.permutation(10**12 + np.arange(60) * 7)
    found = search(x, 5, sample_ids=ids, engine="exact", block_rows=25)
    np.testing.assert_array_equal(found.ids, ids[reference(x).argsort(axis=1)[:, :5]])


def test_search__l2_normalized(reference):
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    x[3] = 0
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    assert_nearest(search(x, 6, normalize="l2"), reference(x / np.where(norms == 0, 1, norms)), 6)


def test_search__half_precision_features_as_stored(digits_features, reference):
    x = digits_features[:300].astype(np.float16)
    assert_nearest(search(x, 5), reference(x), 5)


def test_search__torch_in_leaves_the_input_alone():
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    search(x, 3, normalize="l2")
    assert torch.equal(x, before)


def test_search__identical_rows_take_the_smallest_ids():
    found = search(np.ones((1100, 3), np.float32), 2, engine="exact")
    assert found.ids[[0, 1, 2, 1099]].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert not found.distances.any()


@pytest.mark.parametrize("k", [0, 4, 9])
def test_search__refuses_k_outside_the_pool(k):
    with pytest.raises(ConfigError, match=rf"k={k} must be at least 1 and less than the pool's N=4"):
        search(np.zeros((4, 2)), k)


def test_search__refuses_broken_features_by_sample_id():
    x = np.zeros((4, 2))
    x[2, 1] = np.nan
    with pytest.raises(PoolError, match="sample ids 12 are NaN or infinite"):
        search(x, 1, sample_ids=np.array([10, 11, 12, 13]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "routed"}, "engine='routed' is unknown; use one of: auto, exact, shortlist"),
        ({"block_rows": 0}, "block_rows=0"),
        ({"sample_ids": np.array([1, 2, 1])}, "sample id 1 stands more than once"),
        ({"l1_weight": -1.0}, "l1_weight=-1.0"),
        ({"normalize": "l1"}, "normalize='l1'"),
    ],
)
def test_search__refuses_options(options, message):
    with pytest.raises(ConfigError, match=message):
        search(np.zeros((3, 2)), 1, **options)


def test_search__refuses_other_shapes():
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        search(np.zeros(3), 1)
    with pytest.raises(ValueError, match=r"sample_ids must be \(3,\)"):
        search(np.zeros((3, 1)), 1, sample_ids=np.arange(4))


def test_choose_engine__small_pools_and_large_k_are_searched_exactly():
    assert choose_engine(4_000, 512, 10) == "exact"
    assert choose_engine(10_000, 64, 10) == "exact"
    assert choose_engine(10_000, 512, 10) == "shortlist"
    assert choose_engine(1_000_000, 512, 10) == "shortlist"
    assert choose_engine(1_000_000, 512, 900) == "exact"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_search__cuda_agrees_with_float64(digits_features, reference, engine):
    found = search(torch.from_numpy(digits_features).cuda(), 10, engine=engine)
    assert found.ids.is_cuda
    d = reference(digits_features)
    np.testing.assert_allclose(found.distances.cpu(), np.sort(d, axis=1)[:, :10], rtol=2e-6)

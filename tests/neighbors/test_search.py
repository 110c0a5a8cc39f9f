from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.neighbors import Neighbors, backend, cells, plan, search

# `dm2at_ray.neighbors.search` is the function; the module of that name is behind it.
search_module = importlib.import_module("dm2at_ray.neighbors.search")

ENGINES = ["exact", "shortlist", "routed", "auto"]
NORMALIZED = {
    "none": lambda x: x,
    "l2": normalize,
    "standardize": lambda x: StandardScaler().fit_transform(x),
}


def assert_same_bits(found: Neighbors, expected: Neighbors) -> None:
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.distances, expected.distances)


def assert_nearest(found: Neighbors, d: np.ndarray, k: int, rtol: float = 2e-6) -> None:
    """Hold a result against float64 D of all pairs: right distances, of the right pairs, no pair twice."""
    ids, distances = found.numpy()
    tiny = 1e-6 * np.where(np.isinf(d), 0, d).max()
    np.testing.assert_allclose(distances, np.sort(d, axis=1)[:, :k], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(distances, np.take_along_axis(d, ids, axis=1), rtol=rtol, atol=tiny)
    assert all(len(set(row)) == k for row in ids.tolist())
    later = np.diff(distances, axis=1)
    assert (later >= 0).all()
    assert (np.diff(ids, axis=1)[later == 0] > 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_search__worked_by_hand(engine):
    x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, -1.0]])
    found = search(x, 2, engine=engine)
    # Samples 2 and 3 are both at 1 + 1 from sample 0: the smaller id comes first.
    assert found.ids.tolist() == [[2, 3], [2, 0], [0, 3], [0, 2]]
    root = np.sqrt
    expected = [[2, 2], [6 + root(18), 7 + root(25)], [2, 4], [2, 4]]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-6)


@pytest.mark.parametrize("engine", ["exact", "auto"])
def test_search__agrees_with_scikit_learn(digits_features, reference, engine):
    d = reference(digits_features)
    np.fill_diagonal(d, 0)
    oracle = NearestNeighbors(n_neighbors=10, metric="precomputed").fit(d)
    distances, ids = oracle.kneighbors()
    found = search(digits_features, 10, engine=engine)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert np.mean(found.ids.numpy() == ids) > 0.999


def features(kind: str, seed: int, n: int, d: int, scale: float) -> np.ndarray:
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
    elif kind == "an outlier":
        x[0] *= 1e4
    elif kind == "constant dimensions":
        x[:, random.random(d) < 0.7] = 1
    return x * np.float32(scale)


@pytest.mark.parametrize("dims", [65, 513, 1500])
@pytest.mark.parametrize("engine", ENGINES)
def test_search__many_dimensions(reference, engine, dims):
    x = features("an outlier", 0, 150, dims, 1.0)
    assert_nearest(search(x, 10, engine=engine), reference(x), 10)


inputs = {
    "kind": st.sampled_from(
        ["gauss", "duplicates", "equal", "zeros among", "integers", "an outlier", "constant dimensions"]
    ),
    "seed": st.integers(0, 2**32 - 1),
    "n": st.integers(2, 40),
    "d": st.integers(1, 40),
    "scale": st.sampled_from([1e-4, 1.0, 1e4]),
}
weighted = st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])


@settings(max_examples=150, deadline=None)
@given(**inputs, weights=weighted, engine=st.sampled_from(ENGINES), data=st.data())
def test_search__agrees_with_float64(reference, weights, engine, data, **drawn):
    x = features(**drawn)
    n = len(x)
    k = data.draw(st.one_of(st.just(n - 1), st.integers(1, n - 1)), label="k")
    found = search(x, k, engine=engine, l1_weight=weights[0], l2_weight=weights[1])
    assert_nearest(found, reference(x, *weights), k)


@settings(max_examples=60, deadline=None)
@given(
    **{**inputs, "kind": st.sampled_from(["gauss", "duplicates", "zeros among"])},
    weights=weighted,
    engine=st.sampled_from(ENGINES),
    kind_of_norm=st.sampled_from(list(NORMALIZED)),
)
def test_search__normalized_as_scikit_learn_does(reference, weights, engine, kind_of_norm, **drawn):
    x = features(**drawn)
    k = min(7, len(x) - 1)
    normalized = NORMALIZED[kind_of_norm](x.astype(np.float64))
    found = search(x, k, engine=engine, normalize=kind_of_norm, l1_weight=weights[0], l2_weight=weights[1])
    # The normalized features are rounded to float32 before they are compared.
    d = reference(normalized, *weights)
    rounding = 3e-7 * np.abs(normalized).max() * normalized.shape[1] * sum(weights)
    ids, distances = found.numpy()
    np.testing.assert_allclose(distances, np.sort(d, axis=1)[:, :k], rtol=3e-6, atol=rounding)
    np.testing.assert_allclose(distances, np.take_along_axis(d, ids, axis=1), rtol=3e-6, atol=rounding)


@settings(max_examples=60, deadline=None)
@given(
    **{**inputs, "n": st.integers(2, 90)},
    weights=weighted,
    block_rows=st.integers(1, 40),
    threads=st.integers(1, 2),
)
def test_search__routed_through_all_cells_is_exact(reference, weights, block_rows, threads, **drawn):
    x = features(**drawn)
    k = min(5, len(x) - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "ROWS_PER_CELL", 6)
        patch.setattr(search_module, "probes_for_recall", lambda cells, *_: len(cells))
        found = search(
            x,
            k,
            engine="routed",
            l1_weight=weights[0],
            l2_weight=weights[1],
            block_rows=block_rows,
            threads=threads,
        )
    assert_nearest(found, reference(x, *weights), k)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(65, 160),
    d=st.integers(1, 30),
    k=st.integers(1, 20),
    engine=st.sampled_from(["exact", "shortlist"]),
)
@example(seed=0, n=160, d=8, k=20, engine="shortlist")
def test_search__planned_from_a_part_of_the_pool(reference, seed, n, d, k, engine):
    """As large pools are: ranges, radii and the map come from some rows only."""
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SMALLEST_REFERENCE", 64)
        patch.setattr(plan, "LARGEST_SAMPLE_FOR_MOMENTS", 64)
        patch.setattr(plan, "ROWS_FOR_QUANTIZER", 32)
        found = search(x, k, engine=engine)
    expected = reference(x)
    if engine == "exact":
        assert_nearest(found, expected, k)
        return
    ids, distances = found.numpy()
    assert (ids >= 0).all()
    np.testing.assert_allclose(distances, np.take_along_axis(expected, ids, axis=1), rtol=2e-6)


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1e4), (1.0, 1e12), (1e-4, 1e18)])
def test_search__exact_with_rows_far_out_of_the_range_of_the_codes(reference, scale, factor):
    x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32) * np.float32(scale)
    x[[1, 3]] *= np.float32(factor)
    with pytest.MonkeyPatch.context() as patch:
        # The range is chosen by other rows than these two.
        patch.setattr(plan, "_spread", lambda rows, count: torch.arange(10, 40))
        found = search(x, 3, engine="exact")
    np.testing.assert_allclose(found.distances, np.sort(reference(x), axis=1)[:, :3], rtol=2e-6)
    assert (found.ids >= 0).all()


@pytest.mark.parametrize("order", ["random", "along the first feature"])
def test_search__shortlist_recall_on_real_features(digits_features, reference, order):
    x = digits_features
    rows = np.random.default_rng(0).permutation(len(x)) if order == "random" else np.argsort(x[:, 0])
    x = x[rows]
    kth = np.sort(reference(x), axis=1)[:, 9:10]
    _, distances = search(x, 10, engine="shortlist").numpy()
    assert np.mean(distances <= kth * (1 + 1e-6)) >= 0.999


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.2, 3.0)])
@pytest.mark.parametrize("recall", [0.8, 0.99])
def test_search__routed_recall_on_real_features_is_what_was_asked_for(
    digits_features, reference, monkeypatch, recall, weights
):
    monkeypatch.setattr(cells, "ROWS_PER_CELL", 20)
    x = digits_features
    kth = np.sort(reference(x, *weights), axis=1)[:, 9:10]
    found = search(x, 10, engine="routed", recall=recall, l1_weight=weights[0], l2_weight=weights[1])
    share = np.mean(found.distances.numpy() <= kth * (1 + 1e-6))
    assert share >= recall
    # It has not looked everywhere.
    assert share < recall + 0.5 * (1 - recall)


@pytest.mark.parametrize("engine", ["shortlist", "routed"])
def test_search__distances_are_the_exact_engines_to_the_bit(digits_features, engine):
    ids_a, distances_a = search(digits_features, 5, engine=engine).numpy()
    ids_b, distances_b = search(digits_features, 5, engine="exact").numpy()
    same = ids_a == ids_b
    assert same.mean() > 0.97
    np.testing.assert_array_equal(distances_a[same], distances_b[same])


@pytest.fixture(scope="module")
def many(digits_features) -> np.ndarray:
    """2,500 rows: three tiles of ids, duplicates among them."""
    return np.concatenate([digits_features, digits_features[::-1] * np.float32(1.3)])[:2500].round(2)


@pytest.fixture(scope="module")
def whole(many) -> dict[str, Neighbors]:
    """What each engine finds by one thread in one block."""
    return {engine: search(many, 4, engine=engine, threads=1) for engine in ENGINES[:3]}


@pytest.mark.parametrize("engine", ENGINES[:3])
@pytest.mark.parametrize(
    ("block_rows", "threads"), [(1, 1), (137, 2), (1024, 1), (1024, 3), (1500, 2), (131072, 2), (131072, 3)]
)
def test_search__blocks_and_threads_change_nothing(many, whole, engine, block_rows, threads):
    found = search(many, 4, engine=engine, block_rows=block_rows, threads=threads)
    assert_same_bits(found, whole[engine])


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__without_numba_the_answer_is_the_same_in_any_blocks(many, whole, engine, monkeypatch):
    monkeypatch.setattr(backend, "_numba_works", lambda: False)
    found = search(many, 4, engine=engine)
    assert_same_bits(search(many, 4, engine=engine, block_rows=1024), found)
    # Another order of summation: the last digits, and which of two so near comes first.
    np.testing.assert_allclose(found.distances, whole[engine].distances, rtol=2e-6)
    assert (found.ids == whole[engine].ids).double().mean() > 0.99


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__order_of_the_rows_changes_nothing(many, whole, engine):
    order = np.random.default_rng(0).permutation(len(many))
    found = search(many[order], 4, sample_ids=order, engine=engine, block_rows=1024)
    expected = Neighbors(whole[engine].ids[order], whole[engine].distances[order])
    assert_same_bits(found, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_search__sample_ids_in_any_order(reference, engine):
    random = np.random.default_rng(3)
    x = random.standard_normal((60, 4)).astype(np.float32)
    ids = random.permutation(10**12 + np.arange(60) * 7)
    found = search(x, 5, sample_ids=ids, engine=engine, block_rows=25)
    np.testing.assert_array_equal(found.ids, ids[reference(x).argsort(axis=1)[:, :5]])


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__ties_go_to_the_smaller_id_not_the_earlier_row(engine):
    ids = np.array([40, 7, 23, 11])
    found = search(np.array([[0.0], [1.0], [-1.0], [9.0]]), 2, sample_ids=ids, engine=engine)
    assert found.ids[0].tolist() == [7, 23]
    found = search(np.array([[0.0], [-1.0], [1.0], [9.0]]), 2, sample_ids=ids, engine=engine)
    assert found.ids[0].tolist() == [7, 23]


@pytest.mark.parametrize("engine", ENGINES[:3])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_search__other_floating_types_are_cast_to_float32(digits_features, engine, dtype):
    x = digits_features[:700].astype(dtype)
    assert_same_bits(search(x, 5, engine=engine), search(x.astype(np.float32), 5, engine=engine))


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__torch_and_strided_input(digits_features, engine):
    x = digits_features[:300]
    expected = search(x, 5, engine=engine)
    assert_same_bits(search(torch.from_numpy(x), 5, engine=engine), expected)
    assert_same_bits(search(np.asfortranarray(x), 5, engine=engine), expected)
    assert_same_bits(search(np.repeat(x, 2, axis=0)[::2], 5, engine=engine), expected)


@pytest.mark.parametrize("engine", ENGINES[:3])
@pytest.mark.parametrize("normalized", list(NORMALIZED))
def test_search__leaves_its_input_alone(engine, normalized):
    x = torch.rand(300, 5, generator=torch.Generator().manual_seed(0))
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    before = x.clone(), ids.clone()
    search(x, 3, sample_ids=ids, engine=engine, normalize=normalized)
    assert torch.equal(x, before[0])
    assert torch.equal(ids, before[1])


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__identical_rows_take_the_smallest_ids(engine):
    found = search(np.ones((1100, 3), np.float32), 2, engine=engine)
    assert found.ids[[0, 1, 2, 1099]].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert not found.distances.any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [-1, 0, 4, 9])
def test_search__refuses_k_outside_the_pool(engine, k):
    with pytest.raises(ConfigError, match=rf"k={k} must be at least 1 and less than the pool's N=4"):
        search(np.zeros((4, 2)), k, engine=engine)


@pytest.mark.parametrize("rows", [0, 1])
def test_search__refuses_a_pool_without_neighbours(rows):
    with pytest.raises(ConfigError, match=rf"the pool's N={rows} samples"):
        search(np.zeros((rows, 2)), 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalized", list(NORMALIZED))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_search__refuses_broken_features_by_sample_id(engine, normalized, bad):
    x = np.zeros((6, 2))
    x[2, 1] = x[4, 0] = bad
    with pytest.raises(PoolError, match="sample ids 12, 14 are NaN or infinite"):
        search(x, 1, sample_ids=np.arange(10, 16), engine=engine, normalize=normalized)


@pytest.mark.parametrize("engine", ENGINES[:3])
def test_search__refuses_broken_features_outside_the_sample_it_plans_by(monkeypatch, engine):
    for name in ("LARGEST_SAMPLE_FOR_MOMENTS", "SMALLEST_REFERENCE"):
        monkeypatch.setattr(plan, name, 16)
    for module in (plan, cells):
        monkeypatch.setattr(module, "SAMPLE_PER_CELL", 1)
    monkeypatch.setattr(search_module, "PILOT_QUERIES", 8)
    for row in range(0, 64, 7):
        x = np.random.default_rng(0).standard_normal((64, 2))
        x[row, 1] = np.nan
        with pytest.raises(PoolError, match=f"sample ids {row} are NaN or infinite"):
            search(x, 1, engine=engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine='fast' is unknown; use one of: auto, exact, shortlist, routed"),
        ({"block_rows": 0}, "block_rows=0"),
        ({"sample_ids": np.array([1, 2, 1])}, "sample id 1 stands more than once"),
        ({"l1_weight": -1.0}, "l1_weight=-1.0"),
        ({"l1_weight": 0.0, "l2_weight": 0.0}, "both 0"),
        ({"normalize": "l1"}, "normalize='l1' is unknown; use one of: none, l2, standardize"),
        ({"recall": 0.0}, "recall=0.0"),
        ({"recall": 1.0}, "recall=1.0"),
    ],
)
def test_search__refuses_options(options, message):
    with pytest.raises(ConfigError, match=message):
        search(np.zeros((3, 2)), 1, **options)


def test_search__refuses_other_shapes():
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        search(np.zeros(3), 1)
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        search(np.zeros((3, 0)), 1)
    with pytest.raises(ValueError, match=r"sample_ids must be \(3,\)"):
        search(np.zeros((3, 1)), 1, sample_ids=np.arange(4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("engine", ENGINES)
def test_search__cuda_agrees_with_float64(digits_features, reference, engine):
    found = search(torch.from_numpy(digits_features).cuda(), 10, engine=engine)
    assert found.ids.is_cuda
    nearest = np.sort(reference(digits_features), axis=1)[:, :10]
    distances = found.distances.cpu().numpy()
    if engine in ("exact", "auto"):
        np.testing.assert_allclose(distances, nearest, rtol=2e-6)
    assert np.mean(distances <= nearest[:, 9:] * (1 + 1e-6)) >= 0.99

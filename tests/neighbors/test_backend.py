from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import backend, portable
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.portable import CentredCodes
from dm2at_ray.neighbors.quantizer import Quantizer
from dm2at_ray.neighbors.topk import neighbors_of

TILE_ROWS = 8

# With whole-numbered features and these weights D has the same bits in any order of summation: ties are ties.
WEIGHTS = st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Let small blocks be cut as large ones are."""
    monkeypatch.setattr(portable, "TILE_ROWS", TILE_ROWS)
    if cpu := sys.modules.get("dm2at_ray.neighbors.cpu.search"):
        monkeypatch.setattr(cpu, "TILE_ROWS", TILE_ROWS)


@pytest.fixture(scope="module", params=["numba", "portable"])
def implementation(request):
    """A backend's three functions, with the arguments of `backend`'s."""
    if request.param == "numba":
        pytest.importorskip("numba")
        from dm2at_ray.neighbors.cpu import search as cpu

        return cpu

    def search_lists(*arguments, **options):
        return portable.search_lists(portable.search_ranges, *arguments, **options)

    return SimpleNamespace(
        search_ranges=portable.search_ranges, search_lists=search_lists, measure=portable.measure
    )


class Blocks:
    """One or two blocks of whole-numbered features, encoded, with exact D of all pairs of their rows."""

    def __init__(self, encode, seed, n_x, n_y, dims, same, weights, step, certified):
        self.random = random = np.random.default_rng(seed)
        self.same, self.certified, self.metric, self.step = same, certified, Metric(*weights), step
        # Codes of a step below 0.03 are clipped.
        quantizer = Quantizer(torch.from_numpy(random.integers(-1, 2, dims) * 0.3), step)
        features = [random.integers(0, 8, (n, dims)).astype(np.float32) for n in (n_x, n_y)]
        ids = np.split(random.permutation(n_x + n_y) * 3, [n_x])
        if same:
            features, ids = features[:1] * 2, ids[:1] * 2
        x, y = features
        # Whole numbers under the root: rounded once, as float32 rounds them.
        l1, l2 = (cdist(x, y, norm).astype(np.float32) for norm in ("cityblock", "euclidean"))
        self.d = np.float32(weights[0]) * l1 + np.float32(weights[1]) * l2
        guides = [self.guide(np.sort(d, axis=1), quantizer, dims) for d in (self.d, self.d.T)]
        self.x = encode(x, quantizer, sample_ids=ids[0], **guides[0])
        self.y = self.x if same else encode(y, quantizer, sample_ids=ids[1], **guides[1])
        self.ids_x, self.ids_y = self.x.sample_ids.numpy(), self.y.sample_ids.numpy()

    def guide(self, sorted_d, quantizer, dims):
        rows = len(sorted_d)
        if not self.certified:
            widest = min(255.0, 8 / quantizer.step) ** 2 * dims
            return {"radius": self.random.integers(0, int(widest) + 2, rows)}
        if not sorted_d.size or self.random.random() < 0.4:
            return {}
        # Limits that are the distance to some row, so that the bound is met; or some that are none.
        limit = sorted_d[np.arange(rows), self.random.integers(0, sorted_d.shape[1], rows)]
        unknown = self.random.random(rows) < self.random.choice([0, 0.3])
        return {"limit": np.where(unknown, np.inf, limit).astype(np.float32)}

    def candidates(self, met):
        """Of pairs (N, M) that meet, those that each side's rows may take: (N, M) twice."""
        if self.certified:
            limits = self.x.limit.numpy()[:, None], self.y.limit.numpy()
            return met & (self.d <= limits[0]), met & (self.d <= limits[1])
        codes = [block.codes.numpy().astype(np.int64) for block in (self.x, self.y)]
        squared = ((codes[0][:, None] - codes[1]) ** 2).sum(axis=2)
        near = squared <= np.maximum(self.x.radius.numpy()[:, None], self.y.radius.numpy())
        return met & near, met & near

    def assert_found(self, keys, met, k, sorted_lists):
        keys_x, keys_y = keys
        assert keys_x.shape == (len(self.x), k)
        assert keys_y.shape == (len(self.y), k)
        if self.same:
            assert torch.equal(keys_x, keys_y)
            met = met | met.T
        of_x, of_y = self.candidates(met)
        sides = [(keys_x, self.d, of_x, self.ids_y)]
        if not self.same:
            sides.append((keys_y, self.d.T, of_y.T, self.ids_x))
        for keys_of, d, mask, ids in sides:
            found = neighbors_of(keys_of, torch.from_numpy(np.sort(ids)))
            expected_ids, expected_distances = sorted_lists(d, mask, ids, k)
            assert found.distances.tolist() == expected_distances
            assert found.ids.tolist() == expected_ids


def ranges(random, rows, pieces):
    """Cut rows into ranges, none of them empty."""
    if rows == 0:
        return []
    cuts = np.sort(random.choice(np.arange(1, rows), min(pieces - 1, rows - 1), replace=False)).tolist()
    return list(zip([0, *cuts], [*cuts, rows], strict=True))


blocks = {
    "seed": st.integers(0, 2**32 - 1),
    "n_x": st.integers(0, 45),
    "n_y": st.integers(0, 45),
    "dims": st.integers(1, 40),
    "same": st.booleans(),
    "weights": WEIGHTS,
    "step": st.sampled_from([0.004, 0.013, 0.06, 0.37, 3.0]),
}
work = {"k": st.integers(1, 9), "pieces": st.integers(1, 6), "threads": st.integers(1, 3)}


@settings(max_examples=150, deadline=None)
@given(**blocks, **work, certified=st.booleans(), all_of_them=st.booleans())
def test_search_ranges__finds_the_nearest_of_the_listed_pairs(
    implementation, encode, sorted_lists, k, pieces, threads, all_of_them, **drawn
):
    pool = Blocks(encode, **drawn)
    random, met, pairs = pool.random, np.zeros(pool.d.shape, bool), []
    of_x = ranges(random, len(pool.x), pieces)
    of_y = of_x if pool.same else ranges(random, len(pool.y), pieces)
    for p, a in enumerate(of_x):
        for q, b in enumerate(of_y):
            if (pool.same and q < p) or not (all_of_them or random.random() < 0.6):
                continue
            first, second = (b, a) if pool.same and random.random() < 0.5 else (a, b)
            pairs.append((*first, *second))
            met[slice(*first), slice(*second)] = True
    if pool.same:
        np.fill_diagonal(met, False)
    pairs = random.permutation(np.array(pairs, np.int64).reshape(-1, 4))
    found = implementation.search_ranges(
        pool.x, pool.y, pairs, k=k, metric=pool.metric, step=pool.step, threads=threads
    )
    pool.assert_found(found, met, k, sorted_lists)


@settings(max_examples=150, deadline=None)
@given(**blocks, **work, all_at_home=st.booleans())
def test_search_lists__finds_the_nearest_of_the_listed_pairs(
    implementation, encode, sorted_lists, k, pieces, threads, all_at_home, **drawn
):
    pool = Blocks(encode, certified=True, **drawn)
    random, met = pool.random, np.zeros(pool.d.shape, bool)
    of_x = ranges(random, len(pool.x), pieces)
    of_y = of_x if pool.same else ranges(random, len(pool.y), pieces)
    rows, pairs = [], []
    for p, q in random.permutation([(p, q) for p in range(len(of_x)) for q in range(len(of_y))]).tolist():
        listed = np.arange(*of_x[p])
        # As the routed engine has it, all rows of a range look into that range itself; or any of them.
        if not (pool.same and p == q and all_at_home):
            listed = listed[random.random(len(listed)) < random.random()]
        if len(listed):
            pairs.append((len(rows), len(rows) + len(listed), *of_y[q], *of_x[p]))
            rows.extend(listed)
            met[listed, slice(*of_y[q])] = True
    if pool.same:
        np.fill_diagonal(met, False)
    found = implementation.search_lists(
        pool.x,
        pool.y,
        np.array(rows, np.int64),
        np.array(pairs, np.int64).reshape(-1, 6),
        k=k,
        metric=pool.metric,
        step=pool.step,
        threads=threads,
    )
    pool.assert_found(found, met, k, sorted_lists)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_search_ranges__empty_ranges_anywhere(implementation, encode, sorted_lists, same, threads):
    drawn = {"seed": 0, "n_x": 9, "n_y": 9, "dims": 3, "weights": (1.0, 1.0), "step": 0.37}
    pool = Blocks(encode, same=same, certified=True, **drawn)
    met = np.ones((9, 9), bool)
    if same:
        np.fill_diagonal(met, False)
    options = {"k": 4, "metric": pool.metric, "step": pool.step, "threads": threads}
    pairs = np.array([(9, 9, 9, 9), (0, 0, 0, 9), (0, 9, 0, 9), (0, 9, 9, 9), (9, 9, 0, 9), (0, 9, 0, 0)])
    pool.assert_found(implementation.search_ranges(pool.x, pool.y, pairs, **options), met, 4, sorted_lists)
    entries = np.array([(0, 0, 0, 9, 0, 9), (9, 9, 9, 9, 9, 9), (0, 9, 0, 9, 0, 9), (0, 9, 9, 9, 0, 9)])
    found = implementation.search_lists(pool.x, pool.y, np.arange(9), entries, **options)
    pool.assert_found(found, met, 4, sorted_lists)


@pytest.mark.parametrize("dims", [4, 20, 64, 513])
@pytest.mark.parametrize("known", ["by the search", "beforehand"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_search_ranges__pairs_at_the_very_bound_are_measured(
    implementation, encode, dims, known, same, weights
):
    """A and B are rounded away from each other in every dimension: the bound is their distance.

    Each has a decoy a little farther, which the search meets first.
    """
    a, b, decoy_a, decoy_b = 10.4375, 13.5625, 7.25, 16.75
    x = np.array([[a], [b], [decoy_a], [decoy_b]], np.float32).repeat(dims, axis=1)
    # All differences of a row are the same: |v|_2 is |v|_1 / sqrt(d), the least there is.
    scale = weights[0] * dims + weights[1] * np.sqrt(dims)
    by = Quantizer(torch.zeros(dims, dtype=torch.float64), 1.0)
    assert by.encode(torch.from_numpy(x))[0][:, 0].tolist() == [10, 14, 7, 17]
    limit = np.full(4, (b - a) * scale * 1.001, np.float32) if known == "beforehand" else None
    block = encode(x, by, limit=limit)
    other = block if same else encode(x, by, limit=limit)
    ways = [(0, 1, 2, 4), (1, 2, 2, 4), (0, 1, 1, 2)]
    if not same:
        ways += [(2, 4, 0, 1), (2, 4, 1, 2), (1, 2, 0, 1)]
        ways.sort(key=lambda way: way[:2] != (2, 4) and way[2:] != (2, 4))
    keys = implementation.search_ranges(
        block, other, np.array(ways), k=1, metric=Metric(*weights), step=1.0, threads=1
    )
    for side in keys:
        found = neighbors_of(side, torch.arange(4))
        assert found.ids[:2].tolist() == [[1], [0]]
        np.testing.assert_allclose(found.distances[:2], (b - a) * scale, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.integers(1, 70),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    weights=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)]),
    threads=st.integers(1, 2),
)
def test_search_ranges__backends_agree_on_any_features(encode, seed, dims, scale, weights, threads):
    pytest.importorskip("numba")
    from dm2at_ray.neighbors.cpu import search as cpu

    x = (scale * np.random.default_rng(seed).standard_t(3, (40, dims))).astype(np.float32)
    by = Quantizer.fit(torch.from_numpy(x[:30]))
    blocks = encode(x[:25], by), encode(x[25:], by)
    whole = np.array([[0, 25, 0, 15]])
    options = {"k": 5, "metric": Metric(*weights), "step": by.step, "threads": threads}
    d = weights[0] * cdist(*np.split(x.astype(np.float64), [25]), "cityblock")
    d += weights[1] * cdist(*np.split(x.astype(np.float64), [25]))
    for search_ranges in (cpu.search_ranges, portable.search_ranges):
        keys = search_ranges(*blocks, whole, **options)
        for found, truth in zip(keys, (d, d.T), strict=True):
            ids, distances = neighbors_of(found, torch.arange(truth.shape[1])).numpy()
            np.testing.assert_allclose(distances, np.sort(truth, axis=1)[:, :5], rtol=3e-6)
            np.testing.assert_allclose(distances, np.take_along_axis(truth, ids, axis=1), rtol=3e-6)


@pytest.mark.parametrize("dims", [1, 15, 16, 17, 64, 513])
def test_measure__is_scipys_and_to_the_bit_what_the_search_returns(implementation, encode, dims):
    torch.set_num_threads(1 + dims % 3)
    x = np.random.default_rng(dims).standard_normal((50, dims)).astype(np.float32)
    metric, by = Metric(0.5, 2.0), Quantizer.fit(torch.from_numpy(x))
    a, b = encode(x[:20], by), encode(x[20:], by)
    measured = implementation.measure(a.features, b.features, metric)
    assert measured.dtype == torch.float32
    wide = x.astype(np.float64)
    expected = 0.5 * cdist(wide[:20], wide[20:], "cityblock") + 2 * cdist(wide[:20], wide[20:])
    np.testing.assert_allclose(measured, expected, rtol=3e-6)
    keys = implementation.search_ranges(
        a, b, np.array([[0, 20, 0, 30]]), k=30, metric=metric, step=by.step, threads=1
    )
    found = neighbors_of(keys[0], torch.arange(30))
    assert torch.equal(found.distances, measured.gather(1, found.ids))
    whole = encode(x, by)
    keys = implementation.search_ranges(
        whole, whole, np.array([[0, 50, 0, 50]]), k=49, metric=metric, step=by.step, threads=1
    )
    found = neighbors_of(keys[0], torch.arange(50))
    assert torch.equal(
        found.distances, implementation.measure(whole.features, whole.features, metric).gather(1, found.ids)
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 5),
    columns=st.integers(1, 40),
    whole=st.booleans(),
    threads=st.integers(1, 3),
    data=st.data(),
)
def test_smallest__are_the_smallest_and_the_very_smallest_comes_first(
    each_backend, seed, rows, columns, whole, threads, data
):
    count = data.draw(st.integers(1, columns), label="count")
    random = np.random.default_rng(seed)
    values = random.integers(0, 9, (rows, columns)) if whole else random.standard_normal((rows, columns))
    values = values.astype(np.float32)
    torch.set_num_threads(threads)
    found = backend.smallest(torch.from_numpy(values), count).numpy()
    order = values.argsort(axis=1, kind="stable")[:, :count]
    assert all(len(set(row)) == count for row in found.tolist())
    picked, expected = (np.take_along_axis(values, each, axis=1) for each in (found, order))
    np.testing.assert_array_equal(picked[:, 0], expected[:, 0])
    np.testing.assert_array_equal(np.sort(picked, axis=1), expected)
    if each_backend == "numba":
        # Among equals the smaller columns.
        np.testing.assert_array_equal(found[:, 0], order[:, 0])
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(order, axis=1))


@pytest.mark.parametrize("dims", [1, 700, 1500])
def test_squared_l2__is_exact(dims):
    random = np.random.default_rng(dims)
    x, y = random.integers(0, 256, (6, dims)), random.integers(0, 256, (9, dims))
    x[0], y[0] = 0, 255
    # The largest products, not all of them even.
    x[1:], y[1:] = x[1:] % 2 + 254, y[1:] % 2 + 254
    a, b = (CentredCodes.of(torch.from_numpy(each.astype(np.uint8))) for each in (x, y))
    np.testing.assert_array_equal(a.squared_l2(b), ((x[:, None] - y) ** 2).sum(axis=2))


def test_squared_l2__is_exact_beyond_32_bits():
    x, y = (torch.full((1, 40_000), value, dtype=torch.uint8) for value in (0, 255))
    assert CentredCodes.of(x).squared_l2(CentredCodes.of(y)).tolist() == [[255**2 * 40_000]]


@pytest.mark.usefixtures("each_backend")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 12),
    references=st.integers(1, 40),
    dims=st.integers(1, 20),
    at_once=st.sampled_from([1, 100, 1 << 22]),
    threads=st.integers(1, 3),
    data=st.data(),
)
def test_nearest_codes__are_the_nearest_of_the_others(seed, rows, references, dims, at_once, threads, data):
    count = data.draw(st.integers(1, references), label="count")
    random = np.random.default_rng(seed)
    # Few values: many ties.
    codes, known = random.choice([0, 1, 255], (rows, dims)), random.choice([0, 1, 255], (references, dims))
    ids = random.permutation(references + rows)[:rows], random.permutation(references + rows)[:references]
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "DISTANCES_AT_ONCE", at_once)
        if cpu := sys.modules.get("dm2at_ray.neighbors.cpu.search"):
            patch.setattr(cpu, "DOTS_AT_ONCE", at_once)
        squared, places = backend.nearest_codes(
            *(torch.from_numpy(each.astype(np.uint8)) for each in (codes, known)),
            *map(torch.from_numpy, ids),
            count,
        )
    assert squared.shape == places.shape == (rows, count)
    expected = ((codes[:, None] - known) ** 2).sum(axis=2)
    itself = ids[0][:, None] == ids[1]
    nothing = np.iinfo(np.int64).max
    far = np.where(itself, nothing, expected)
    nearest = np.sort(far, axis=1)[:, :count]
    missing = nearest == nothing
    assert (squared.numpy()[missing] > 2**31 - 2).all()
    squared, places, nearest = squared.numpy()[~missing], places.numpy(), nearest[~missing]
    np.testing.assert_array_equal(squared, nearest)
    np.testing.assert_array_equal(far[np.nonzero(~missing)[0], places[~missing]], squared)
    assert all(len(set(row[~gone])) == (~gone).sum() for row, gone in zip(places, missing, strict=True))


@pytest.mark.parametrize("cache_bytes", [1, 5000, 1 << 21])
def test_pairwise_l1__is_scipys_cityblock(monkeypatch, cache_bytes):
    monkeypatch.setattr(portable, "CACHE_BYTES", cache_bytes)
    x, y = torch.randn(61, 17, generator=torch.Generator().manual_seed(0)).split([20, 41])
    np.testing.assert_allclose(
        portable.pairwise_l1(x, y), cdist(x.double(), y.double(), "cityblock"), rtol=1e-6
    )

"""The kernels, and the search they make, against integers and float64.

On a GPU these run there. On a CPU `test_interpreted.py` runs them in Triton's interpreter, which takes the
plain twins of the Gluon kernels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import portable
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.quantizer import Quantizer

from .blocks import MISSING, assert_same, encode, nearest, squared_l2, true_distances

pytestmark = pytest.mark.gpu
METRIC = Metric(l1_weight=0.5, l2_weight=2.0)
K = 4


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    pytest.importorskip("triton.experimental.gluon", reason="Triton with Gluon is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        from dm2at_ray.neighbors.gpu import pairs, self_check

        with pytest.MonkeyPatch.context() as patch:
            # The interpreter's time goes with the number of programs, not with their size.
            patch.setattr(pairs, "PAIRS", 1024)
            patch.setattr(self_check, "DIMENSIONS", (1, 19))
            yield torch.device("cpu")
    elif torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        pytest.skip("needs a CUDA GPU; in Triton's interpreter test_interpreted.py runs it")


@pytest.fixture(scope="module")
def features(device: torch.device) -> Callable[[int, int], torch.Tensor]:
    """Return a function giving (n, d) features as of a network: ReLU of four hidden factors, and noise."""

    def make(n: int, d: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(n + d)
        factors = torch.randn(n, 4, generator=random) @ torch.randn(4, d, generator=random)
        return (factors + 0.3 * torch.randn(n, d, generator=random)).relu().to(device)

    return make


def search(x: Encoded, y: Encoded, pairs: list[list[int]], step: float, k: int = K, metric: Metric = METRIC):
    from dm2at_ray.neighbors.gpu.search import search_ranges

    return search_ranges(x, y, np.array(pairs).reshape(-1, 4), k=k, metric=metric, step=step, threads=1)


@pytest.mark.parametrize(
    "name", ["check_sad", "check_halves", "check_gemm", "check_nearest", "check_pairs", "check_measure"]
)
def test_kernel__agrees_with_its_reference(name: str, device: torch.device) -> None:
    from dm2at_ray.neighbors.gpu import self_check

    getattr(self_check, name)(device)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e-19, 1e-16])
def test_distances__of_features_whose_squares_vanish(
    weights: tuple[float, float], scale: float, device: torch.device
) -> None:
    from dm2at_ray.neighbors.gpu import measure, pairs

    x = (scale * torch.randn(40, 19, generator=torch.Generator().manual_seed(0))).to(device)
    i, j = torch.triu_indices(40, 40, device=device)
    metric = Metric(*weights)
    wide = x.cpu().double().numpy()
    expected = weights[0] * cdist(wide, wide, "cityblock") + weights[1] * cdist(wide, wide)
    found = pairs.pair_distances(x, i.to(torch.int32), x, j.to(torch.int32), metric)
    np.testing.assert_allclose(found.cpu(), expected[i.cpu(), j.cpu()], rtol=2e-6)
    np.testing.assert_allclose(measure.measure(x, x, metric).cpu(), expected, rtol=2e-6)


@pytest.mark.parametrize("name", ["check_sad", "check_halves", "check_gemm"])
def test_self_check__sees_a_lost_pair(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dm2at_ray.neighbors.gpu import self_check, survivors

    found = survivors.Survivors.found
    monkeypatch.setattr(survivors.Survivors, "found", lambda buffer: found(buffer) - 1)
    monkeypatch.setattr(self_check, "DIMENSIONS", (3,))
    with pytest.raises(self_check.WrongAnswerError, match="pairs found"):
        getattr(self_check, name)(device)


@pytest.mark.parametrize("name", ["check_pairs", "check_measure"])
def test_self_check__sees_a_wrong_distance(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dm2at_ray.neighbors.gpu import self_check

    kernel = {"check_pairs": "pair_distances", "check_measure": "measure"}[name]
    right = getattr(self_check, kernel)
    monkeypatch.setattr(self_check, kernel, lambda *arguments: right(*arguments) * (1 + 1e-5))
    monkeypatch.setattr(self_check, "DIMENSIONS", (3,))
    with pytest.raises(self_check.WrongAnswerError, match="relative error"):
        getattr(self_check, name)(device)


@pytest.mark.parametrize("part", [0, 1])
def test_self_check__sees_a_wrong_reference_row(
    part: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dm2at_ray.neighbors.gpu import self_check

    right = self_check.nearest_codes

    def wrong(*arguments):
        found = list(right(*arguments))
        found[part] = found[part].flip(0)
        return found

    monkeypatch.setattr(self_check, "nearest_codes", wrong)
    monkeypatch.setattr(self_check, "DIMENSIONS", (3,))
    with pytest.raises(self_check.WrongAnswerError, match=["other distances", "other places"][part]):
        self_check.check_nearest(device)


def test_search__certified_with_nothing_known(features: Callable[..., torch.Tensor]) -> None:
    x = features(150, 21)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    keys, again = search(block, block, [[0, 150, 0, 150]], quantizer.step)
    assert again is keys
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, K))


def test_search__certified_between_blocks_with_limits(features: Callable[..., torch.Tensor]) -> None:
    x, y = features(131, 16), features(90, 16)
    quantizer = Quantizer.fit(x)
    d = true_distances(encode(x, quantizer), encode(y, quantizer), METRIC)
    # Half of the rows look just as far as their third neighbour, the others nearly nowhere.
    limits = []
    for distances in (d, d.T):
        third = np.sort(distances, axis=1)[:, 2] * (1 + 1e-6)
        limits.append(np.where(np.arange(len(third)) % 2, third, third / 4).astype(np.float32))
    a, b = (
        encode(rows, quantizer, torch.from_numpy(limit).to(x.device))
        for rows, limit in zip((x, y), limits, strict=True)
    )
    of_a, of_b = search(a, b, [[0, 131, 0, 90]], quantizer.step)
    assert_same(of_a, nearest(np.where(d <= limits[0][:, None], d, np.nan), b.order, K))
    assert_same(of_b, nearest(np.where(d <= limits[1], d, np.nan).T, a.order, K))


def test_search__certified_measures_few_pairs(features: Callable[..., torch.Tensor]) -> None:
    from dm2at_ray.neighbors.gpu.search import RangeSearch

    n = 200
    x = features(n, 64)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    d = true_distances(block, block, METRIC)
    limit = torch.from_numpy(np.sort(d, axis=1)[:, K - 1] * (1 + 1e-6)).to(x.device, torch.float32)
    block = replace(block, limit=limit)
    search = RangeSearch(block, block, K, METRIC, quantizer.step)
    keys, _ = search.run(np.array([[0, n, 0, n]]))
    assert_same(keys, nearest(d, block.order, K))
    assert search.measured < 0.2 * n * (n - 1) / 2


def test_search__halves_take_over_where_codes_are_too_coarse(features: Callable[..., torch.Tensor]) -> None:
    from dm2at_ray.neighbors.gpu.search import RangeSearch, Sizes

    n = 600
    x = features(n, 32)
    # A few dimensions a thousand times as large as the others, and nearly the same in all rows.
    x[:, :3] = 1000 + x[:, :3]
    x[::50, 3] += 3000
    quantizer = Quantizer(x.amin(dim=0).to(torch.float64), 3000 / 255)
    block = encode(x, quantizer)
    search = RangeSearch(block, block, K, METRIC, quantizer.step, Sizes(capacity=1, flush=1))
    keys, _ = search.run(np.array([[0, n, 0, n]]))
    assert search.coarse
    assert search.measured < 0.7 * n * (n - 1) / 2
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, K))
    fine = encode(x, Quantizer.fit(features(n, 32)))
    again = RangeSearch(fine, fine, K, METRIC, Quantizer.fit(features(n, 32)).step)
    again.run(np.array([[0, n, 0, n]]))
    assert not again.coarse


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 70),
    spread=st.floats(0, 14),
    scale=st.sampled_from([1e-15, 1.0, 1e12]),
    moved=st.sampled_from([0.0, 1.0, 1e4]),
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_halves__leave_every_pair_within_reach(
    n: int, d: int, spread: float, scale: float, moved: float, whole: bool, seed: int, device: torch.device
) -> None:
    from dm2at_ray.neighbors.gpu.filters import CertifiedByHalves
    from dm2at_ray.neighbors.gpu.survivors import Survivors
    from dm2at_ray.neighbors.gpu.tiles import TileList

    random = torch.Generator().manual_seed(seed)
    sizes = torch.exp(spread * torch.randn(n, d, generator=random))
    x = moved + torch.randn(n, d, generator=random) * sizes
    x = ((x.clamp(-9, 9).round() if whole else x.clamp(-1e20, 1e20)) * scale).to(device)
    d_all = METRIC.of_pairs(
        x, torch.arange(n).repeat_interleave(n).to(device), x, torch.arange(n).repeat(n).to(device)
    ).view(n, n)
    # Each row's limit is its distance to some other: that pair is just within reach.
    partner = (torch.arange(n) + 1 + torch.randint(0, n - 1, (n,), generator=random)) % n
    limit = d_all[torch.arange(n), partner]
    block = replace(encode(x, Quantizer.fit(x)), limit=limit.to(device))
    certified = CertifiedByHalves(block, block, METRIC)
    tiles = TileList.cut(np.array([[0, n, 0, n]]), certified.tile, same=True, device=device)
    survivors = Survivors.empty(n * n, device)
    certified.launch(tiles.rows(0, tiles.total), survivors)
    i, j = survivors.pairs(survivors.found())
    left = set(zip(i.tolist(), j.tolist(), strict=True))
    within = (d_all <= torch.maximum(limit[:, None], limit)).triu(diagonal=1).nonzero().tolist()
    assert {(p, q) for p, q in within} <= left


def test_halves__leave_little_else(features: Callable[..., torch.Tensor]) -> None:
    from dm2at_ray.neighbors.gpu.search import RangeSearch

    n = 200
    x = features(n, 64)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    d = true_distances(block, block, METRIC)
    limit = torch.from_numpy(np.sort(d, axis=1)[:, K - 1] * (1 + 1e-6)).to(x.device, torch.float32)
    block = replace(block, limit=limit)
    measured = []
    for halved in (False, True):
        search = RangeSearch(block, block, K, METRIC, quantizer.step)
        if halved:
            from dm2at_ray.neighbors.gpu.filters import CertifiedByHalves

            search._filter = CertifiedByHalves(block, block, METRIC)
        keys, _ = search.run(np.array([[0, n, 0, n]]))
        assert_same(keys, nearest(d, block.order, K))
        measured.append(search.measured)
    assert measured[1] <= measured[0]


def test_search__shortlist_finds_candidates_only(features: Callable[..., torch.Tensor]) -> None:
    x, y = features(140, 33), features(70, 33)
    quantizer = Quantizer.fit(x)
    a, b = encode(x, quantizer, rank=3), encode(y, quantizer, rank=6)
    assert a.radius is not None
    assert b.radius is not None
    for p, q, pairs in (
        (a, b, [[0, 140, 0, 70]]),
        (a, a, [[0, 60, 0, 60], [0, 60, 60, 140], [60, 140, 60, 140]]),
    ):
        within = squared_l2(p.codes, q.codes) <= torch.maximum(p.radius[:, None], q.radius)
        d = np.where(within.cpu().numpy(), true_distances(p, q, METRIC), np.nan)
        of_p, of_q = search(p, q, pairs, quantizer.step)
        assert_same(of_p, nearest(d, q.order, K))
        assert_same(of_q, nearest(d.T, p.order, K))


@pytest.mark.parametrize("rank", [None, 20])
def test_search__an_overflow_loses_nothing(rank: int | None, features: Callable[..., torch.Tensor]) -> None:
    from dm2at_ray.neighbors.gpu.search import RangeSearch, Sizes

    n = 260
    x = features(n, 5)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer, rank=rank)
    if rank is not None:
        block = replace(block, radius=torch.full_like(block.order, 10**6))
    # A launch of all tiles finds every pair, more than there is room for.
    greedy = RangeSearch(block, block, K, METRIC, quantizer.step, Sizes(capacity=1, flush=1))
    greedy._next_length = lambda length, per_tile, room: 1000  # type: ignore[method-assign]
    keys, _ = greedy.run(np.array([[0, n, 0, n]]))
    assert greedy.redone > 0
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, K))


def test_search__the_cut_into_ranges_changes_no_bit(features: Callable[..., torch.Tensor]) -> None:
    x = features(120, 12)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    whole, _ = search(block, block, [[0, 120, 0, 120]], quantizer.step)
    cut = [[0, 37, 0, 37], [0, 37, 37, 120], [37, 38, 37, 38], [37, 38, 38, 120], [38, 120, 38, 120]]
    parts, _ = search(block, block, cut, quantizer.step)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_search__agrees_with_the_portable_backend(
    scale: float, features: Callable[..., torch.Tensor]
) -> None:
    x = features(90, 7) * scale
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    options = {"k": K, "metric": Metric(), "step": quantizer.step, "threads": 1}
    keys, _ = search(block, block, [[0, 90, 0, 90]], quantizer.step, metric=Metric())
    others, _ = portable.search_ranges(block, block, np.array([[0, 90, 0, 90]]), **options)
    assert torch.equal(keys & 0x7FFFFFFF, others & 0x7FFFFFFF)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 9),
    k=st.integers(1, 6),
    weights=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 3.0)]),
    seed=st.integers(0, 10**6),
)
def test_search__is_exact_with_ties_and_duplicates(
    n: int, d: int, k: int, weights: tuple[float, float], seed: int, device: torch.device
) -> None:
    # Whole numbers, so that equal distances are equal in float32 too.
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 4, (n, d), generator=random).to(device, torch.float32)
    quantizer, metric = Quantizer.fit(x), Metric(*weights)
    block = encode(x, quantizer)
    middle = seed % (n + 1)
    cut = [[0, middle, 0, middle], [0, middle, middle, n], [middle, n, middle, n]]
    keys, _ = search(block, block, cut, quantizer.step, k=k, metric=metric)
    assert_same(keys, nearest(true_distances(block, block, metric), block.order, k))


def test_search__equal_rows_go_by_their_order(device: torch.device) -> None:
    x = torch.ones(40, 3, device=device)
    x[30:] = 0
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    keys, _ = search(block, block, [[0, 40, 0, 40]], quantizer.step)
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, K))
    flat = encode(x[:30], Quantizer.fit(x[:30]))
    keys, _ = search(flat, flat, [[0, 30, 0, 30]], 1.0)
    assert_same(keys, nearest(true_distances(flat, flat, METRIC), flat.order, K))


def test_search__every_other_row_is_a_neighbour(features: Callable[..., torch.Tensor]) -> None:
    x = features(19, 4)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer)
    keys, _ = search(block, block, [[0, 19, 0, 19]], quantizer.step, k=18)
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, 18))
    assert (keys != MISSING).all()


@pytest.mark.parametrize("rank", [None, 0])
def test_search__one_row_and_none(rank: int | None, features: Callable[..., torch.Tensor]) -> None:
    x = features(20, 6)
    quantizer = Quantizer.fit(x)
    one, none, all_rows = encode(x[:1], quantizer, rank=rank), encode(x[:0], quantizer), encode(x, quantizer)
    if rank is not None:
        none = replace(none, radius=none.order)
        all_rows = replace(all_rows, radius=torch.zeros_like(all_rows.order))
    keys, _ = search(one, one, [[0, 1, 0, 1]], quantizer.step)
    assert keys.tolist() == [[MISSING] * K]
    for pairs in ([], [[0, 0, 0, 20]]):
        of_none, of_all = search(none, all_rows, pairs, quantizer.step)
        assert of_none.shape == (0, K)
        assert of_all.tolist() == [[MISSING] * K] * 20


def test_search__more_dimensions_than_int32_holds(device: torch.device) -> None:
    x = torch.rand(6, 33_000, generator=torch.Generator().manual_seed(0)).to(device)
    quantizer = Quantizer.fit(x)
    block = encode(x, quantizer, rank=3)
    keys, _ = search(block, block, [[0, 6, 0, 6]], quantizer.step, k=2)
    assert_same(keys, nearest(true_distances(block, block, METRIC), block.order, 2))

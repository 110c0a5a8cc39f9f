from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from dm2at_ray.neighbors.cpu import kernels
from dm2at_ray.neighbors.cpu import search as cpu
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.quantizer import Quantizer
from dm2at_ray.neighbors.topk import MISSING_KEY, neighbors_of


def ranges_of(sizes: list[int]) -> list[tuple[int, int]]:
    ends = np.cumsum(sizes).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def listed(pairs: np.ndarray, same: bool) -> list[tuple[int, int]]:
    """Pairs of rows that ranges stand for; where x is y, unordered."""
    rows = []
    for x_begin, x_end, y_begin, y_end in np.asarray(pairs).tolist():
        diagonal = same and x_begin == y_begin
        rows += [
            (min(i, j), max(i, j)) if same else (i, j)
            for i in range(x_begin, x_end)
            for j in range(y_begin, y_end)
            if not diagonal or j > i
        ]
    return sorted(rows)


@settings(max_examples=60, deadline=None)
@given(
    sizes_x=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    sizes_y=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    same=st.booleans(),
    tile=st.integers(1, 9),
)
def test_cut_pairs__every_pair_of_rows_once(sizes_x, sizes_y, same, tile):
    of_x = ranges_of(sizes_x)
    of_y = of_x if same else ranges_of(sizes_y)
    pairs = np.array([(*a, *b) for p, a in enumerate(of_x) for b in (of_y[p:] if same else of_y)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "TILE_ROWS", tile)
        tiles = cpu.cut_pairs(pairs, same)
    assert listed(tiles, same) == listed(pairs, same)
    assert (tiles[:, [1, 3]] - tiles[:, [0, 2]] <= tile).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pieces=st.integers(1, 9),
    share=st.sampled_from([0.2, 0.7, 1.0]),
    same=st.booleans(),
)
def test_rounds_of__pairs_of_a_round_share_no_rows(seed, pieces, share, same):
    random = np.random.default_rng(seed)
    bounds = ranges_of([2] * pieces)
    pairs = np.array(
        [(0, 0, *b, *a) for a in bounds for b in bounds if random.random() < share], np.int64
    ).reshape(-1, 6)
    pairs = random.permutation(pairs)
    rounds = kernels.rounds_of(pairs, same, 2 * pieces, 2 * pieces)
    for number in set(rounds.tolist()):
        of_x, of_y = pairs[rounds == number, 4].tolist(), pairs[rounds == number, 2].tolist()
        rows = [{("x", i), ("x" if same else "y", j)} for i, j in zip(of_x, of_y, strict=True)]
        assert len(set().union(*rows)) == sum(map(len, rows))


def test_rounds_of__a_tournament_takes_as_many_rounds_as_it_has_tiles():
    tiles = cpu.cut_pairs(np.array([[0, 8 * cpu.TILE_ROWS, 0, 8 * cpu.TILE_ROWS]]), True)
    pairs = np.concatenate([tiles, tiles[:, :2]], axis=1)
    rounds = kernels.rounds_of(pairs, True, 8 * cpu.TILE_ROWS, 8 * cpu.TILE_ROWS)
    # The diagonal, then 7 rounds of 4 pairs.
    assert np.bincount(rounds)[1:].tolist() == [8, *[4] * 7]


@pytest.mark.parametrize("same", [True, False])
def test_search_lists__empty_ranges_at_the_end_are_in_no_round(encode, monkeypatch, same):
    # Uncompiled it sees an index out of bounds.
    monkeypatch.setattr(kernels, "rounds_of", kernels.rounds_of.py_func)
    by = Quantizer(torch.zeros(3, dtype=torch.float64), 1.0)
    a, b = (encode(np.ones((5, 3)), by) for _ in range(2))
    pairs = np.array([[0, 5, 5, 5, 0, 5], [0, 5, 0, 5, 0, 5], [5, 5, 0, 5, 5, 5]])
    y = a if same else b
    keys, _ = cpu.search_lists(a, y, np.arange(5), pairs, k=2, metric=Metric(), step=1.0, threads=2)
    assert neighbors_of(keys, y.sample_ids).ids[4].tolist() == [0, 1]


WHOLE = [(0, 90, 0, 90)]
CHAIN = [(at, at + 4, at + 4, at + 8) for at in range(0, 80, 4)]


@pytest.mark.parametrize("pairs", [WHOLE, CHAIN], ids=["whole", "chain"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("threads", [2, 3])
def test_search_ranges__threads_never_meet_in_a_row(encode, monkeypatch, pairs, same, threads):
    """What is submitted before a result is asked for may run at once, and writes to both sides' keys."""
    together, done, most = [], [], [0]

    class Threads:
        def __init__(self, count):
            assert count == threads

        def __enter__(self):
            return self

        def __exit__(self, *_):
            assert not together

        def submit(self, run, part):
            together.append(part)
            run(part)
            return SimpleNamespace(result=check)

    def check():
        taken = [
            {("x", begin) for begin in part[:, 4]} | {("x" if same else "y", begin) for begin in part[:, 2]}
            for part in together
        ]
        assert len(set().union(*taken)) == sum(map(len, taken))
        most[0] = max(most[0], len(together))
        together.clear()

    def search_pairs(rows, part, *_):
        done.extend((*pair[4:], *pair[2:4]) for pair in part.tolist())

    monkeypatch.setattr(cpu, "TILE_ROWS", 4)
    monkeypatch.setattr(cpu, "ThreadPoolExecutor", Threads)
    monkeypatch.setattr(kernels, "search_pairs", search_pairs)
    a, b = (encode(np.ones((90, 3)), Quantizer(torch.zeros(3, dtype=torch.float64), 1.0)) for _ in range(2))
    listed = np.array(pairs)
    cpu.search_ranges(a, a if same else b, listed, k=2, metric=Metric(), step=1.0, threads=threads)
    assert sorted(done) == sorted(map(tuple, cpu.cut_pairs(listed, same).tolist()))
    assert 1 < most[0] <= threads


@pytest.fixture
def measured(monkeypatch):
    """How many pairs each call of the kernel has measured."""
    counts, search_pairs = [], kernels.search_pairs
    monkeypatch.setattr(kernels, "search_pairs", lambda *given: counts.append(search_pairs(*given)))
    return counts


def test_search_ranges__certified_filter_leaves_few_and_misses_none(
    digits_features, encode, reference, measured
):
    n = 1500
    x = digits_features[:n]
    by = Quantizer.fit(torch.from_numpy(x))
    block, whole = encode(x, by), np.array([[0, n, 0, n]])
    keys, _ = cpu.search_ranges(block, block, whole, k=10, metric=Metric(), step=by.step, threads=1)
    nearest = np.sort(reference(x), axis=1)[:, :10]
    np.testing.assert_allclose(neighbors_of(keys, torch.arange(n)).distances, nearest, rtol=1e-6)
    # A few dozen pairs a row until its k-th distance is known; once it is known, little more than k of them.
    assert sum(measured) < 75 * n
    limit = (nearest[:, 9] * (1 + 1e-5)).astype(np.float32)
    block = encode(x, by, limit=limit)
    again, _ = cpu.search_ranges(block, block, whole, k=10, metric=Metric(), step=by.step, threads=1)
    assert torch.equal(again, keys)
    assert measured[-1] < 20 * n


def test_search_ranges__shortlist_measures_its_candidates_and_nothing_else(digits_features, encode, measured):
    x = digits_features[:400]
    by = Quantizer.fit(torch.from_numpy(x))
    codes = by.encode(torch.from_numpy(x))[0].numpy().astype(np.int64)
    squared = ((codes[:, None] - codes) ** 2).sum(axis=2)
    radius = np.sort(squared, axis=1)[:, 20]
    block = encode(x, by, radius=radius)
    cpu.search_ranges(
        block, block, np.array([[0, 400, 0, 400]]), k=3, metric=Metric(), step=by.step, threads=1
    )
    candidates = np.triu(squared <= np.maximum(radius[:, None], radius), k=1)
    assert measured == [candidates.sum()]


@pytest.mark.parametrize("threads", [1, 2])
def test_search_ranges__nothing_listed(encode, threads):
    by = Quantizer(torch.zeros(3, dtype=torch.float64), 1.0)
    a, none = encode(np.ones((5, 3)), by), encode(np.ones((0, 3)), by)
    pairs = np.zeros((0, 4), np.int64)
    for y in (a, none):
        of_a, of_y = cpu.search_ranges(a, y, pairs, k=2, metric=Metric(), step=1.0, threads=threads)
        assert torch.equal(of_a, torch.full((5, 2), MISSING_KEY))
        assert torch.equal(of_y, torch.full((len(y), 2), MISSING_KEY))

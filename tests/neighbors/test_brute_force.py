"""The public search held against float64 brute force, ties by id to the letter."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import backend, block, cells, plan, portable, search

search_module = importlib.import_module("dm2at_ray.neighbors.search")

WHOLE = ["whole numbers", "few values", "duplicates", "equal", "zeros among", "one apart"]
KINDS = ["gauss", "far groups", "all magnitudes", *WHOLE]


def features(random: np.random.Generator, kind: str, n: int, d: int) -> np.ndarray:
    """(n, d) float32; of the kinds in WHOLE, whole numbers whose squares float32 adds up exactly."""
    x = random.integers(-8, 9, (n, d)).astype(np.float32)
    if kind == "gauss":
        return random.standard_normal((n, d)).astype(np.float32)
    if kind == "few values":
        return random.integers(0, 2, (n, d)).astype(np.float32)
    if kind == "duplicates":
        return x[random.integers(0, max(1, n // 3), n)]
    if kind == "equal":
        return np.repeat(x[:1], n, axis=0)
    if kind == "zeros among":
        x[random.random(n) < 0.5] = 0
        x[:, random.random(d) < 0.5] = 0
    elif kind == "one apart":
        x[random.integers(n)] = 128
    elif kind == "all magnitudes":
        return np.ldexp(x, random.integers(-110, 9, (n, 1)))
    elif kind == "far groups":
        return x * np.float32(1e-3) + random.choice([-1e3, 0, 1e3], (n, 1)).astype(np.float32)
    return x


def assert_found(found, x, ids, k, weights, complete: bool) -> None:
    """Hold a result against D in float64: right distances, of the right pairs, and if complete no other."""
    got_ids, got = found.numpy()
    x = x.astype(np.float64)
    l1, l2 = cdist(x, x, "cityblock"), cdist(x, x)
    d = weights[0] * l1 + weights[1] * l2
    np.fill_diagonal(d, np.inf)
    by_id = np.argsort(ids)
    place = by_id[np.searchsorted(ids[by_id], np.where(got_ids < 0, ids[0], got_ids))]
    there = got_ids >= 0
    assert not complete or there.all()
    measured = np.take_along_axis(d, place, axis=1)
    np.testing.assert_allclose(got[there], measured[there], rtol=3e-6, atol=2.0**-147)
    assert np.isinf(got[~there]).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in got_ids)
    with np.errstate(invalid="ignore"):
        later = np.diff(got, axis=1)
    assert not (later < 0).any()
    assert (np.diff(got_ids, axis=1)[later == 0] > 0).all()
    if not complete:
        return
    np.testing.assert_allclose(got, np.sort(d, axis=1)[:, :k], rtol=3e-6, atol=2.0**-147)


def assert_ties(found, x, ids, k, weights) -> None:
    """Whole numbers times a power of two: D is rounded as float32 rounds it, in any order of summation."""
    x = x.astype(np.float64)
    l1, l2 = cdist(x, x, "cityblock").astype(np.float32), cdist(x, x).astype(np.float32)
    d = np.float32(weights[0]) * l1 + np.float32(weights[1]) * l2
    np.fill_diagonal(d, np.inf)
    nearest = np.stack([np.lexsort((ids, row))[:k] for row in d])
    np.testing.assert_array_equal(found.ids, ids[nearest])
    np.testing.assert_array_equal(found.distances, np.take_along_axis(d, nearest, axis=1))


DRAWN = {
    "seed": st.integers(0, 2**32 - 1),
    "kind": st.sampled_from(KINDS),
    "engine": st.sampled_from(["exact", "shortlist", "routed", "auto"]),
    "n": st.one_of(st.integers(2, 12), st.integers(2, 300)),
    "d": st.integers(1, 40),
    "exponent": st.sampled_from([0, 0, -100, -74, -62, -50, -13, 13, 40]),
    "weights": st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)]),
    "threads": st.integers(1, 3),
    "tile": st.sampled_from([8, 64, 1024]),
    "block_rows": st.sampled_from([1, 17, 60, 131072]),
    "numba": st.sampled_from([True, True, True, False]),
    "all_cells": st.booleans(),
    "spread": st.sampled_from([1, 7, 10**15]),
    "which_k": st.sampled_from(["one", "few", "all"]),
}


def check(
    *,
    seed,
    kind,
    engine,
    n,
    d,
    exponent,
    weights,
    threads,
    tile,
    block_rows,
    numba,
    all_cells,
    spread,
    which_k,
):
    random = np.random.default_rng(seed)
    x = np.ldexp(features(random, kind, n, d), exponent)
    ids = random.permutation(n).astype(np.int64) * spread
    k = {"one": 1, "few": int(random.integers(1, n)), "all": n - 1}[which_k]
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks, tiles and cells, so that a small pool is cut as a large one is.
        for module in (block, plan, cells, search_module):
            if hasattr(module, "TILE"):
                patch.setattr(module, "TILE", tile)
        patch.setattr(portable, "TILE_ROWS", tile)
        if cpu := sys.modules.get("dm2at_ray.neighbors.cpu.search"):
            patch.setattr(cpu, "TILE_ROWS", tile)
        patch.setattr(cells, "ROWS_PER_CELL", 9)
        if all_cells:
            patch.setattr(search_module, "probes_for_recall", lambda cells, *_: len(cells))
        if not numba:
            patch.setattr(backend, "_numba_works", lambda: False)
        found = search(
            x,
            k,
            sample_ids=ids,
            engine=engine,
            l1_weight=weights[0],
            l2_weight=weights[1],
            threads=threads,
            block_rows=block_rows,
        )
    # The shortlist looks at 16 k rows at least, and at 128.
    complete = engine in ("exact", "auto") or (all_cells if engine == "routed" else n <= 128)
    assert_found(found, x, ids, k, weights, complete)
    if complete and kind in WHOLE:
        assert_ties(found, x, ids, k, weights)


@settings(max_examples=150, deadline=None)
@given(**DRAWN)
def test_search__is_brute_force(**drawn):
    check(**drawn)

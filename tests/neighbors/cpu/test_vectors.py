"""Every form of the vector operations that this CPU can run, held against NumPy.

`_cpu_has` is asked when a caller is compiled, so that small callers compiled here take the form wanted.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm
from numba import njit

from dm2at_ray.neighbors.cpu import vectors
from dm2at_ray.neighbors.cpu.search import pack
from dm2at_ray.neighbors.cpu.vectors import (
    GROUP,
    LANES,
    ROWS_X,
    ROWS_Y,
    address,
    bits_of,
    lowest_bit,
    pair_distance,
    within_dot,
    within_sad,
)

SAD_FORMS = {"avx512bw": "psad.bw.512", "avx2": "avx2.psad.bw", "sse2": "sse2.psad.bw", "generic": None}
DOT_FORMS = {"avx512vnni": "vpdpbusd.512", "generic": None}


def compiled(monkeypatch, within, form, forms):
    """Compile a caller of a filter as on a CPU that has this one feature, and see that it took that form."""
    if form != "generic" and not llvm.get_host_cpu_features().get(form):
        pytest.skip(f"this CPU has no {form}")
    monkeypatch.setattr(vectors, "_cpu_has", lambda feature: feature == form)

    @njit
    def call(x, places, y, words, reach_x, base_x, reach_y, base_y):
        return within(
            address(x, 0),
            address(places, 0),
            address(y, 0),
            words,
            address(reach_x, 0),
            address(base_x, 0),
            address(reach_y, 0),
            address(base_y, 0),
        )

    longs = np.zeros(ROWS_Y, np.int64)
    call(np.zeros(64, np.uint8), longs, np.zeros(128, np.uint8), 1, longs, longs, longs, longs)
    code = "".join(call.inspect_llvm().values())
    for other, name in forms.items():
        assert other == "generic" or (name in code) == (other == form)
    return call


def by_hand(codes: np.ndarray, words: int) -> np.ndarray:
    """Pack rows as `Side` says: word w of the row r of group g at 64 * (g * W + w) + 8 * r."""
    packed = np.zeros(-(-len(codes) // ROWS_Y) * ROWS_Y * words * 8, np.uint8)
    for row, values in enumerate(codes):
        for dim, value in enumerate(values):
            packed[64 * (row // GROUP * words + dim // 8) + 8 * (row % GROUP) + dim % 8] = value
    return packed


def codes(random: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    """Random bytes, many of them the least or the greatest, and rows that are all the one or the other."""
    drawn = random.choice(np.array([0, 1, 127, 128, 254, 255, *range(256)], np.uint8), (rows, dims))
    drawn[0], drawn[-1] = 0, 255
    return drawn


@pytest.mark.parametrize(("rows", "dims"), [(1, 1), (16, 8), (17, 9), (40, 63)])
def test_pack__as_it_says(rows, dims):
    drawn = codes(np.random.default_rng(0), rows, dims)
    words = -(-dims // 8)
    np.testing.assert_array_equal(pack(drawn, words), by_hand(drawn, words))


def assert_filter(call, value, random, dims):
    """See that the filter's value of each pair is within a reach of just so much, and not of one less."""
    words = -(-dims // 8)
    x, y = codes(random, 24, dims), codes(random, ROWS_Y, dims)
    rows = random.permutation(24)[:ROWS_X]
    places = 64 * words * (rows // GROUP) + 8 * (rows % GROUP)
    values = value(x[rows].astype(np.int64), y.astype(np.int64))
    never = np.full(ROWS_Y, -(2**40))
    packed_x, packed_y = by_hand(x, words), by_hand(y, words)

    def mask(reach_x, base_x, reach_y, base_y):
        bits = call(packed_x, places, packed_y, words, *(reach_x, base_x, reach_y, base_y))
        hits = np.unpackbits(np.array([bits], "<u8").view(np.uint8), bitorder="little")
        return hits.astype(bool).reshape(ROWS_X, ROWS_Y)

    spread = random.integers(-1000, 1000, ROWS_X)
    for column in range(ROWS_Y):
        for less in (0, 1):
            reach = values[:, column] - less
            expected = reach[:, None] >= values
            # By the row of x alone, then with a base of y on top, then by what y reaches on top of x's base.
            np.testing.assert_array_equal(mask(reach, never[:ROWS_X], never, never * 0), expected)
            base_y = random.integers(-1000, 1000, ROWS_Y)
            got = mask(reach, never[:ROWS_X], never, base_y)
            np.testing.assert_array_equal(got, reach[:, None] + base_y >= values)
            got = mask(never[:ROWS_X], spread, never * 0 + int(reach[0]) - int(spread[0]), never)
            np.testing.assert_array_equal(got, reach[0] - spread[0] + spread[:, None] >= values)
    assert mask(never[:ROWS_X], never[:ROWS_X], never, never).sum() == 0


@pytest.mark.parametrize("form", SAD_FORMS)
def test_within_sad__is_the_sum_of_absolute_differences(monkeypatch, form):
    call = compiled(monkeypatch, within_sad, form, SAD_FORMS)
    random = np.random.default_rng(0)
    for dims in (1, 7, 8, 9, 64, 301):
        assert_filter(call, lambda x, y: np.abs(x[:, None] - y).sum(axis=2), random, dims)


@pytest.mark.parametrize("form", DOT_FORMS)
def test_within_dot__is_minus_two_dot_products(monkeypatch, form):
    call = compiled(monkeypatch, within_dot, form, DOT_FORMS)
    random = np.random.default_rng(0)
    for dims in (1, 7, 8, 9, 64, 301):
        assert_filter(call, lambda x, y: -2 * x @ (y - 128).T, random, dims)


@njit
def measured(x, y, l1_weight, l2_weight):
    return pair_distance(address(x, 0), address(y, 0), len(x), l1_weight, l2_weight)


@pytest.mark.parametrize("dims", [16, 32, 64, 512])
def test_pair_distance__adds_in_the_order_it_says(dims):
    """To the bit: LANES sums side by side, then their halves; no operation is contracted."""

    def of_lanes(values: np.ndarray) -> np.float32:
        sums = np.zeros(LANES, np.float32)
        for at in range(0, dims, LANES):
            sums = sums + values[at : at + LANES]
        while len(sums) > 1:
            sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
        return sums[0]

    random = np.random.default_rng(dims)
    for _ in range(50):
        x, y = random.standard_normal((2, dims)).astype(np.float32)
        l1_weight, l2_weight = random.random(2).astype(np.float32)
        difference = x - y
        expected = l1_weight * of_lanes(np.abs(difference)) + l2_weight * np.sqrt(of_lanes(difference**2))
        assert expected.dtype == np.float32
        assert measured(x, y, l1_weight, l2_weight) == expected
        assert measured(y, x, l1_weight, l2_weight) == expected


@pytest.mark.parametrize("scale", [2.0**-120, 1e-30, 1e-25, 1e-19, 1e-16, 1e-14, 1e15])
@pytest.mark.parametrize("weights", [(1, 1), (0, 1), (1, 0)])
def test_pair_distance__of_differences_whose_squares_vanish(scale, weights):
    random = np.random.default_rng(0)
    x, y = (scale * random.standard_normal((2, 20, 32))).astype(np.float32)
    # Rows far from zero whose differences alone are tiny, as far as float32 tells them apart.
    x[:10, 0] = y[:10, 0] = 1.0
    difference = x.astype(np.float64) - y
    expected = weights[0] * np.abs(difference).sum(axis=1) + weights[1] * np.linalg.norm(difference, axis=1)
    found = [measured(a, b, *np.array(weights, np.float32)) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert measured(x[0], x[0], *np.array(weights, np.float32)) == 0


def test_lowest_bit():
    find = njit(lambda mask: lowest_bit(mask))
    masks = [0b1, 0b101000, 1 << 63, (1 << 64) - 2]
    assert [find(np.uint64(mask)) for mask in masks] == [0, 3, 63, 1]


def test_bits_of__order_as_the_values_do():
    find = njit(lambda value: bits_of(value))
    values = np.array([0.0, 1e-45, 1e-38, 1.0, 3e38, np.inf], np.float32)
    found = [find(value) for value in values]
    assert found == values.view(np.int32).tolist()
    assert found == sorted(found)

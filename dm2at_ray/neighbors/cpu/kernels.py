"""The compiled loop over pairs of row ranges: filter on codes, measure what passes, keep the k nearest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dm2at_ray.neighbors.cpu.vectors import (
    GROUP,
    ROWS_X,
    ROWS_Y,
    address,
    bits_of,
    lowest_bit,
    pair_distance,
    within_dot,
    within_sad,
)

FARTHEST = 2**62
"""A squared distance that stands for none."""

FAR = 2.0**50
"""A reach in code units that every pair is within."""


class Side(NamedTuple):
    """One of the two blocks; row arrays are padded to a multiple of ROWS_Y, `features` to one of LANES.

    A pair (i, j) passes the filter if its value on codes is at most
    max(x.reach[i] + y.base[j], x.base[i] + y.reach[j]).

    Attributes:
        codes: (G * W * 64,) uint8: word w of the row r of group g at 64 * (g * W + w) + 8 * r.
        features: (N * D,) float32.
        reach: (N,) int64; the certified filter lowers it as neighbours are found.
        base: (N,) int64.
        limit: (N,) float32, pairs farther than this are not kept.
        order: (N,) int64, the ranks of the sample ids.
        keys: (N, k) int64, the nearest found, ascending: see `topk`.
    """

    codes: np.ndarray
    features: np.ndarray
    reach: np.ndarray
    base: np.ndarray
    limit: np.ndarray
    order: np.ndarray
    keys: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def search_pairs(  # type: ignore[no-untyped-def]
    rows, pairs, same, certified, words, dims, x, y, l1_weight, l2_weight, codes_per_distance, slack
):  # pragma: no cover - compiled
    """Search (P, 6) pairs of lists and ranges one after the other; what is found goes to both sides' keys.

    Args:
        rows: (R,) int64 rows of x.
        pairs: begin and end in `rows`, begin and end in y, and the range of x that the rows are of.
        same: x and y are the same block: a row does not meet itself.
        certified: filter by the sum of absolute differences of codes; else by their L2 distance.
        words: ceil(D / 8) of the codes.
        dims: D of the features, padded.
        x: A Side.
        y: A Side, or x again.
        l1_weight: Of D, float32.
        l2_weight: Of D, float32.
        codes_per_distance: Code units that a distance of 1 is worth at most, rounding included.
        slack: Code units on top of it.

    Returns:
        How many pairs were measured.
    """
    measured = 0
    places, reach, base = np.zeros(ROWS_X, np.int64), np.zeros(ROWS_X, np.int64), np.zeros(ROWS_X, np.int64)
    codes = address(x.codes, 0)
    for p in range(pairs.shape[0]):
        begin, end, y_begin, y_end = pairs[p, 0], pairs[p, 1], pairs[p, 2], pairs[p, 3]
        # Each pair once, from its smaller row, where all rows of the range are listed.
        diagonal = same and pairs[p, 4] == y_begin and end - begin == pairs[p, 5] - pairs[p, 4]
        for at in range(begin, end, ROWS_X):
            count = min(ROWS_X, end - at)
            for r in range(count):
                row = rows[at + r]
                places[r] = 64 * words * (row // GROUP) + 8 * (row % GROUP)
                reach[r], base[r] = x.reach[row], x.base[row]
            first = max(y_begin, rows[at] + 1) if diagonal else y_begin
            for j in range(first - first % ROWS_Y, y_end, ROWS_Y):
                arguments = (
                    codes,
                    address(places, 0),
                    address(y.codes, 64 * words * (j // GROUP)),
                    words,
                    address(reach, 0),
                    address(base, 0),
                    address(y.reach, j),
                    address(y.base, j),
                )
                mask = within_sad(*arguments) if certified else within_dot(*arguments)
                if mask == np.uint64(0):
                    continue
                while mask != np.uint64(0):
                    bit = lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    r, column = bit // ROWS_Y, j + bit % ROWS_Y
                    if r >= count or column < y_begin or column >= y_end:
                        continue
                    row = rows[at + r]
                    if same and (column == row or (diagonal and column < row)):
                        continue
                    measured += 1
                    x_row, y_row = address(x.features, row * dims), address(y.features, column * dims)
                    d = pair_distance(x_row, y_row, dims, l1_weight, l2_weight)
                    bits = bits_of(d) << 32
                    nearer = d <= x.limit[row] and _keep(x.keys, row, bits | y.order[column])
                    if nearer and certified:
                        _tighten(x, row, codes_per_distance, slack)
                    nearer = d <= y.limit[column] and _keep(y.keys, column, bits | x.order[row])
                    if nearer and certified:
                        _tighten(y, column, codes_per_distance, slack)
                for r in range(count):
                    reach[r] = x.reach[rows[at + r]]
    return measured


@njit(nogil=True, cache=True)
def _keep(keys, row, key):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Insert a key into its sorted row, and say whether it is now among the k smallest for the first time."""
    at = keys.shape[1] - 1
    if key >= keys[row, at]:
        return False
    while at > 0 and keys[row, at - 1] > key:
        at -= 1
    if at > 0 and keys[row, at - 1] == key:
        return False
    for later in range(keys.shape[1] - 1, at, -1):
        keys[row, later] = keys[row, later - 1]
    keys[row, at] = key
    return True


@njit(nogil=True, cache=True)
def _tighten(side, row, codes_per_distance, slack):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring a row's reach down to its k-th distance."""
    worst = np.float64(np.int32(side.keys[row, side.keys.shape[1] - 1] >> 32).view(np.float32))
    reach = min(worst, np.float64(side.limit[row])) * codes_per_distance + slack
    side.reach[row] = np.int64(min(reach, FAR)) + 1 + side.base[row]


@njit(nogil=True, cache=True)
def rounds_of(pairs, same, x_rows, y_rows):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Number the pairs such that those of a number have no rows in common: they may run side by side."""
    last_x = np.zeros(x_rows, np.int32)
    last_y = last_x if same else np.zeros(y_rows, np.int32)
    rounds = np.empty(pairs.shape[0], np.int32)
    for p in range(pairs.shape[0]):
        i, j = pairs[p, 4], pairs[p, 2]
        rounds[p] = max(last_x[i], last_y[j]) + 1
        last_x[i] = last_y[j] = rounds[p]
    return rounds


@njit(nogil=True, cache=True, error_model="numpy")
def measure(x, y, dims, l1_weight, l2_weight, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write D of all pairs of rows (Q * dims,) and (N * dims,) to `out` (Q, N), without any filter."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = pair_distance(address(x, i * dims), address(y, j * dims), dims, l1_weight, l2_weight)


@njit(nogil=True, cache=True, error_model="numpy")
def encode(features, low, step, codes, residuals):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the codes (N, D) uint8 and the residuals (N,) float64 of features (N, D): see `Quantizer`."""
    for row in range(features.shape[0]):
        total = 0.0
        for column in range(features.shape[1]):
            scaled = (np.float64(features[row, column]) - low[column]) / step
            rounded = min(max(np.rint(scaled), 0.0), 255.0)
            codes[row, column] = np.uint8(rounded)
            total += abs(scaled - rounded)
        residuals[row] = total


@njit(nogil=True, cache=True)
def nearest_codes(  # type: ignore[no-untyped-def]
    dots, squares_x, squares_y, ids_x, ids_y, squared, places
):  # pragma: no cover - compiled
    """Write the smallest squared L2 distances (N, r) of codes, ascending, and where they stand.

    The distance is squares_x + squares_y - 2 dots (N, M); equal ids are the same row, which does not count.
    """
    count = squared.shape[1]
    for row in range(dots.shape[0]):
        kept, where = squared[row], places[row]
        kept[:] = FARTHEST
        where[:] = -1
        limit = FARTHEST
        for column in range(dots.shape[1]):
            distance = squares_x[row] + squares_y[column] - 2 * np.int64(dots[row, column])
            if distance >= limit or ids_x[row] == ids_y[column]:
                continue
            at = count - 1
            while at > 0 and kept[at - 1] > distance:
                kept[at], where[at] = kept[at - 1], where[at - 1]
                at -= 1
            kept[at], where[at] = distance, column
            limit = kept[count - 1]


@njit(nogil=True, cache=True)
def smallest(values, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the columns of the smallest of each row's values (N, M) to `out` (N, count), the smallest first.

    The others come in any order; among equals the smaller columns are taken.
    """
    count = out.shape[1]
    for row in range(values.shape[0]):
        # A heap with the largest of those kept on top; most values are larger still and cost one comparison.
        heap, kept = out[row], values[row]
        for column in range(count):
            heap[column] = column
        for place in range(count // 2 - 1, -1, -1):
            _sink(heap, kept, place, count)
        limit = kept[heap[0]]
        for column in range(count, values.shape[1]):
            if kept[column] < limit:
                heap[0] = column
                _sink(heap, kept, 0, count)
                limit = kept[heap[0]]
        best = 0
        for place in range(1, count):
            if _before(kept, heap[place], heap[best]):
                best = place
        heap[0], heap[best] = heap[best], heap[0]


@njit(nogil=True, cache=True)
def _before(values, a, b):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Whether column a comes before column b."""
    return values[a] < values[b] or (values[a] == values[b] and a < b)


@njit(nogil=True, cache=True)
def _sink(heap, values, place, count):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Let the column at a place of the heap sink below those that come after it."""
    column = heap[place]
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and _before(values, heap[child], heap[child + 1]):
            child += 1
        if not _before(values, column, heap[child]):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = column

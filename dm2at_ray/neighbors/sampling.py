"""Which samples stand for the pool: drawn by their ids, so that no answer depends on how the pool is cut."""

from __future__ import annotations

import enum

import numpy as np

from dm2at_ray.algorithm.counter_rng import Stream, uniform


class Draw(enum.IntEnum):
    """What rows are drawn for; the draws are independent of each other."""

    REFERENCE = 0
    PILOT = 1
    AUDIT = 2


def lottery(seed: int, round_index: int, sample_ids: np.ndarray) -> np.ndarray:
    """Return the tickets (N, 3) float64 in (0, 1) of sample ids (N,) int64, a column for each Draw."""
    return uniform(seed, round_index, Stream.NEIGHBORS, sample_ids, len(Draw))


def winners(tickets: np.ndarray, sample_ids: np.ndarray, count: int) -> np.ndarray:
    """Return the places (min(count, N),) of the smallest of the tickets (N,), in the order of their ids."""
    places = np.lexsort((sample_ids, tickets))[:count]
    return places[np.argsort(sample_ids[places])]

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.neighbors.sampling import Draw, lottery, winners


def test_lottery__a_ticket_belongs_to_its_sample():
    ids = np.array([5, 0, 2**40, 17])
    tickets = lottery(3, 2, ids)
    assert tickets.shape == (4, 3)
    for place in range(4):
        np.testing.assert_array_equal(lottery(3, 2, ids[place : place + 1])[0], tickets[place])


def test_lottery__differs_by_seed_round_draw_and_from_other_streams():
    ids = np.arange(50)
    draws = [*lottery(0, 0, ids).T, *lottery(1, 0, ids).T, *lottery(0, 1, ids).T]
    draws += list(uniform(0, 0, Stream.ACQUISITION, ids, len(Draw)).T)
    for p, first in enumerate(draws):
        assert ((first > 0) & (first < 1)).all()
        for second in draws[:p]:
            assert not np.isin(first, second).any()


def test_winners__smallest_tickets_in_the_order_of_their_ids():
    tickets, ids = np.array([0.9, 0.1, 0.3, 0.2]), np.array([7, 9, 1, 3])
    assert winners(tickets, ids, 2).tolist() == [3, 1]
    assert winners(tickets, ids, 3).tolist() == [2, 3, 1]
    assert winners(tickets, ids, 9).tolist() == [2, 3, 0, 1]
    assert winners(tickets, ids, 0).tolist() == []


def test_winners__equal_tickets_go_to_the_smaller_id():
    assert winners(np.array([0.5, 0.5, 0.5]), np.array([30, 10, 20]), 2).tolist() == [1, 2]


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(0, 40), cut=st.integers(0, 30))
def test_winners__of_the_parts_winners_are_the_winners_of_all(seed, count, cut):
    ids = np.random.default_rng(seed).permutation(30) * 3
    tickets = lottery(seed, 0, ids)[:, Draw.PILOT]
    part = [winners(tickets[at], ids[at], count) for at in (slice(cut), slice(cut, None))]
    finalists = np.concatenate([part[0], part[1] + cut])
    again = finalists[winners(tickets[finalists], ids[finalists], count)]
    np.testing.assert_array_equal(again, winners(tickets, ids, count))

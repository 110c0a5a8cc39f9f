from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dm2at_ray.training.order import epoch_order

IDS = np.array([40, 7, 19, 3, 88, 21, 60])


@given(count=st.integers(1, 60), batch_size=st.integers(1, 70), workers=st.integers(1, 9))
def test_epoch_order__every_sample_once_for_any_number_of_workers(
    count: int, batch_size: int, workers: int
) -> None:
    order = epoch_order(np.arange(count), batch_size, seed=0, round_index=2, epoch=1)
    sizes = []
    seen: list[int] = []
    for step in range(order.steps):
        shares = [order.share(step, rank, workers) for rank in range(workers)]
        batch = np.concatenate(shares)
        assert batch.tolist() == order.global_batch(step).tolist()
        assert len(shares[0]) == max(len(share) for share in shares) > 0
        sizes.append(len(batch))
        seen += batch.tolist()
    assert sorted(seen) == list(range(count))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert order.steps == -(-count // batch_size)


def test_epoch_order__is_of_the_ids_and_not_of_the_rows() -> None:
    ids = IDS[epoch_order(IDS, 3, seed=0, round_index=0, epoch=0).rows]
    flipped = IDS[::-1]
    assert flipped[epoch_order(flipped, 3, seed=0, round_index=0, epoch=0).rows].tolist() == ids.tolist()


def test_epoch_order__differs_by_seed_round_and_epoch() -> None:
    orders = {
        tuple(epoch_order(IDS, 3, seed=seed, round_index=round_index, epoch=epoch).rows)
        for seed, round_index, epoch in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(orders) == 4


def test_epoch_order__is_uniform() -> None:
    firsts = [epoch_order(IDS, 7, seed=seed, round_index=0, epoch=0).rows[0] for seed in range(700)]
    assert np.bincount(firsts, minlength=7).min() > 60  # 100 expected; 60 is more than 4 deviations below

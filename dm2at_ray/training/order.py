"""In which order samples are seen, for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dm2at_ray.algorithm.counter_rng import Stream
from dm2at_ray.training.draws import epoch_uniforms


@dataclass(frozen=True)
class EpochOrder:
    """One epoch, cut into global batches, of which each worker takes its share.

    Every sample comes once. All batches have the same size but for one sample, so no step rests on a few
    leftovers, and a batch is cut the same way into shares: rank 0's is never empty, another's may be where
    there are fewer samples than workers.
    """

    rows: NDArray[np.int64]
    """(N,) rows of the labeled set, in the order they are seen."""

    steps: int
    """Global batches of the epoch."""

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Rows of the batch that all workers together train on in step `step` of the epoch."""
        return _part(self.rows, step, self.steps)

    def share(self, step: int, rank: int, world_size: int) -> NDArray[np.int64]:
        """Rows of that batch which worker `rank` of `world_size` trains on; may be empty."""
        return _part(self.global_batch(step), rank, world_size)


def epoch_order(
    sample_ids: NDArray[np.int64], batch_size: int, *, seed: int, round_index: int, epoch: int
) -> EpochOrder:
    """Shuffle the samples for one epoch: by (seed, round, epoch) and the set of ids, whatever their order.

    Args:
        sample_ids: (N,) int64.
        batch_size: Largest size of a global batch.
        seed: Seed of the run.
        round_index: Round of the run.
        epoch: Epoch, from 0.

    Examples:
        >>> order = epoch_order(np.arange(10), 4, seed=0, round_index=0, epoch=0)
        >>> [len(order.global_batch(step)) for step in range(order.steps)]
        [4, 3, 3]
        >>> [len(order.share(0, rank, 3)) for rank in range(3)]
        [2, 1, 1]
    """
    keys = epoch_uniforms(seed, round_index, epoch, Stream.SHUFFLE, sample_ids, 1)[:, 0]
    return EpochOrder(rows=np.lexsort((sample_ids, keys)), steps=-(-len(sample_ids) // batch_size))


def _part(rows: NDArray[np.int64], index: int, parts: int) -> NDArray[np.int64]:
    size, larger = divmod(len(rows), parts)
    start = index * size + min(index, larger)
    return rows[start : start + size + (index < larger)]

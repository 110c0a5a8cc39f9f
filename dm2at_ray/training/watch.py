"""Watches the losses of all workers without making the device wait in every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dm2at_ray.errors import UserError

_NAMED_IDS = 8


class NonFiniteLossError(UserError):
    """The loss, or a weight, became infinite or not a number; raised on all workers.

    Epoch and step count from 0. A weight is looked at after each epoch: it was spoilt by that epoch's last
    step, for after an earlier one the next loss would have shown it.
    """

    def __init__(
        self, round_index: int, epoch: int, step: int, sample_ids: Sequence[int], what: str = "loss is"
    ) -> None:
        super().__init__(round_index, epoch, step, sample_ids, what)
        self._what = what
        self.round_index = round_index
        self.epoch = epoch
        self.step = step
        self.sample_ids = sample_ids
        """All samples of the global batch."""

    def __str__(self) -> str:
        named = ", ".join(str(sample_id) for sample_id in self.sample_ids[:_NAMED_IDS])
        more = len(self.sample_ids) - _NAMED_IDS
        return (
            f"{self._what} not finite in round {self.round_index}, epoch {self.epoch}, "
            f"step {self.step} of it (samples {named}{f' and {more} more' if more > 0 else ''}): "
            "lower the learning rate, or look at these samples"
        )


class LossWatch:
    """Collects the sums of an epoch's steps, adds up the workers', and looks for the first bad step."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._pending: list[Tensor] = []
        self._flushed = 0
        self.epoch_sums: NDArray[np.float64] = np.zeros(8)
        """(8,) sums over all workers and all flushed steps."""

    def add(self, sums: Tensor) -> None:
        """Take the (8,) float64 sums of one step of this worker."""
        self._pending.append(sums)

    def flush(self) -> tuple[NDArray[np.float64], int | None]:
        """Sum the pending steps over workers: one collective operation, so call it equally often on all.

        Returns:
            The (8,) sums of the pending steps, and the first step of the epoch whose loss is not finite.
        """
        stacked = torch.stack(self._pending)  # (steps, 8)
        if self._world_size > 1:
            dist.all_reduce(stacked)
        steps = stacked.cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(steps[:, 6]))
        first_bad = self._flushed + int(bad[0]) if len(bad) else None
        self._flushed += len(self._pending)
        self._pending.clear()
        pending_sums = steps.sum(axis=0)
        self.epoch_sums = self.epoch_sums + pending_sums
        return pending_sums, first_bad

"""Forward and backward passes of a step: both halves in one, in two, or in two with the attack among them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dm2at_ray.algorithm.attacks import signed_step
from dm2at_ray.training.batch import Batch
from dm2at_ray.training.forward import forward
from dm2at_ray.training.halves import (
    Half,
    adversarial_half,
    batch_loss,
    clean_half,
    concatenated,
    score,
)
from dm2at_ray.training.settings import TrainSettings

_MIN_ROWS = 2
"""Batch norm needs two values; and a worker without rows takes part in every collective operation."""


@dataclass(frozen=True)
class Passes:
    """The passes of one step. Each method adds to the parameters' gradients and returns the losses.

    Where gradients are averaged over workers, that is done by the last backward pass of the step, for all.
    """

    model: nn.Module
    """In train mode, wrapped in DistributedDataParallel where there are several workers."""

    batch: Batch
    settings: TrainSettings

    scale: float
    """What the loss of this worker's share is multiplied with."""

    workers: int

    def joint(self, fresh: Tensor) -> Losses:
        """One pass of both halves, under the same statistics of batch norm.

        Args:
            fresh: (N, C, H, W) fresh adversaries, or (0, C, H, W).
        """
        halves = clean_half(self.batch), adversarial_half(self.batch, fresh)
        return self._pass(*(half if len(half) else None for half in halves))

    def two(self, fresh: Tensor) -> Losses:
        """One pass of each half, as in the paper; none of a half without images."""
        clean, adversarial = clean_half(self.batch), adversarial_half(self.batch, fresh)
        run_clean, run_adversarial = self._runs(clean, adversarial)
        losses = Losses.none(self.batch)
        if run_clean:
            with self._unsynchronized() if run_adversarial else nullcontext():
                losses += self._pass(clean, None)
        if run_adversarial:
            losses += self._pass(None, adversarial)
        return losses

    def shared(self, epsilon: float) -> Losses:
        """One pass of each half, where the clean one's backward pass leads to the adversaries, too.

        The gradient of λ times the mean loss has the signs of the loss's own, so this is `two` with FGSM in
        train mode towards the true label.
        """
        images = self.batch.images.detach().requires_grad_()
        with self._unsynchronized():
            losses = self._pass(Half(images, None), None)
        assert images.grad is not None
        fresh = signed_step(self.batch.images, images.grad, epsilon)
        return losses + self._pass(None, adversarial_half(self.batch, fresh))

    def _pass(self, clean: Half | None, adversarial: Half | None) -> Losses:
        """One forward and one backward pass of the halves that are given."""
        halves = (clean, adversarial)
        logits = self._logits([half for half in halves if half is not None])
        parts = logits.split([0 if half is None else len(half) for half in halves])
        found, attacked = (
            None if half is None else score(self.batch, half, part)
            for half, part in zip(halves, parts, strict=True)
        )
        total = batch_loss(self.batch, found, attacked, self.settings.clean_weight)
        (total if self.scale == 1 else total * self.scale).backward()  # type: ignore[no-untyped-call]
        nothing = self.batch.weights.new_zeros(3, dtype=torch.float64)
        sums = [nothing if each is None else each.sums for each in (found, attacked)]
        return Losses(total.detach(), torch.cat(sums))

    def _logits(self, halves: list[Half]) -> Tensor:
        """(M, classes) of the halves' M images; rows that fill them up are passed, too, but do not count."""
        images = concatenated([half.images for half in halves])
        count, precision = len(images), self.settings.precision
        if self.batch.is_full and count >= _MIN_ROWS:
            return forward(self.model, images, precision)
        counts = torch.cat([half.of(self.batch.weights) for half in halves])
        missing = max(0, _MIN_ROWS - count)
        if missing:
            filler = images if count else self.batch.images[:1]
            images = concatenated([images, filler.repeat(missing, 1, 1, 1)])
            counts = torch.cat([counts, counts.new_zeros(missing)])
        return forward(self.model, images, precision, counts)[:count]

    def _runs(self, clean: Half, adversarial: Half) -> tuple[bool, bool]:
        """Which halves are passed: the same on all workers, whatever images their shares have."""
        if self.workers == 1:
            return len(clean) > 0, len(adversarial) > 0
        without_twin = self.settings.adversaries == "stored"
        return self.settings.clean_weight > 0 or without_twin, self.settings.clean_weight < 1

    def _unsynchronized(self) -> AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


@dataclass(frozen=True)
class Losses:
    """What one or several passes found."""

    total: Tensor
    """Combined loss, the mean over the batch; of one half only, its part of it. Without a graph."""

    sums: Tensor
    """(6,) float64: losses, hits and number of clean images, and of adversarial ones."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.total + other.total, self.sums + other.sums)

    @staticmethod
    def none(batch: Batch) -> Losses:
        """Of no pass."""
        return Losses(batch.weights.new_zeros(()), batch.weights.new_zeros(6, dtype=torch.float64))

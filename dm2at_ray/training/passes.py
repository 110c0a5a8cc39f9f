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
    Score,
    adversarial_half,
    attacked_samples,
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
        clean, adversarial = clean_half(self.batch), adversarial_half(self.batch, fresh)
        rows = torch.cat([clean.rows, adversarial.rows])
        logits = self._logits(Half(concatenated([clean.images, adversarial.images]), rows))
        clean_logits, adversarial_logits = logits.split([len(clean.rows), len(adversarial.rows)])
        losses = self._losses(
            score(self.batch, clean.rows, clean_logits),
            score(self.batch, adversarial.rows, adversarial_logits),
        )
        self._backward(losses)
        return losses

    def two(self, fresh: Tensor) -> Losses:
        """One pass of each half, as in the paper; none of a half without images."""
        clean, adversarial = clean_half(self.batch), adversarial_half(self.batch, fresh)
        run_clean, run_adversarial = self._runs(clean, adversarial)
        losses = Losses.none(self.batch)
        if run_clean:
            with self._unsynchronized() if run_adversarial else nullcontext():
                losses += self._clean(clean)
        if run_adversarial:
            losses += self._adversarial(adversarial)
        return losses

    def shared(self, epsilon: float) -> Losses:
        """One pass of each half, where the clean one's backward pass leads to the adversaries, too.

        The gradient of λ times the mean loss has the signs of the loss's own, so this is `two` with FGSM in
        train mode towards the true label.
        """
        images = self.batch.images.detach().requires_grad_()
        with self._unsynchronized():
            losses = self._clean(Half(images, self.batch.clean_rows))
        assert images.grad is not None
        fresh = signed_step(self.batch.images, images.grad, epsilon)
        return losses + self._adversarial(adversarial_half(self.batch, fresh))

    def _clean(self, half: Half) -> Losses:
        losses = self._losses(score(self.batch, half.rows, self._logits(half)), None)
        self._backward(losses)
        return losses

    def _adversarial(self, half: Half) -> Losses:
        losses = self._losses(None, score(self.batch, half.rows, self._logits(half)))
        self._backward(losses)
        return losses

    def _logits(self, half: Half) -> Tensor:
        """(M, classes) of a half's M images; rows that fill it up are passed, too, but do not count."""
        count = len(half.rows)
        images, weights = half.images, self.batch.weights[half.rows]
        if count < _MIN_ROWS:
            filler = images if count else self.batch.images[:1]
            images = concatenated([images, filler.repeat(_MIN_ROWS - count, 1, 1, 1)])
            weights = torch.cat([weights, weights.new_zeros(_MIN_ROWS - count)])
        all_count = self.batch.samples == len(self.batch.weights) and count >= _MIN_ROWS
        return forward(self.model, images, self.settings.precision, None if all_count else weights)[:count]

    def _losses(self, clean: Score | None, adversarial: Score | None) -> Losses:
        nothing = Score(torch.zeros_like(self.batch.weights), self.batch.weights.new_zeros(3).double())
        clean, adversarial = clean or nothing, adversarial or nothing
        total = batch_loss(
            self.batch,
            clean.losses,
            adversarial.losses,
            attacked_samples(self.batch),
            self.settings.clean_weight,
        )
        return Losses(total, torch.cat([clean.sums, adversarial.sums]))

    def _backward(self, losses: Losses) -> None:
        (losses.total * self.scale).backward()  # type: ignore[no-untyped-call]

    def _runs(self, clean: Half, adversarial: Half) -> tuple[bool, bool]:
        """Which halves are passed: the same on all workers, whatever images their shares have."""
        if self.workers == 1:
            return len(clean.rows) > 0, len(adversarial.rows) > 0
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
    """Combined loss, the mean over the batch; of one half only, its part of it."""

    sums: Tensor
    """(6,) float64: losses, hits and number of clean images, and of adversarial ones."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.total.detach() + other.total.detach(), self.sums + other.sums)

    @staticmethod
    def none(batch: Batch) -> Losses:
        """Of no pass."""
        nothing = batch.weights.new_zeros(6)
        return Losses(nothing[0], nothing.double())

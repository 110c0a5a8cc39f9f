"""The clean and the adversarial half of a batch, and what each adds to the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dm2at_ray.algorithm.losses import combined_loss
from dm2at_ray.training.batch import Batch


@dataclass(frozen=True)
class Half:
    """M images to be trained on."""

    images: Tensor
    """(M, C, H, W)."""

    rows: Tensor | None
    """(M,) int64: the samples of the batch that they are of; None: one of each, in order."""

    def __len__(self) -> int:
        return len(self.images)

    def of(self, values: Tensor) -> Tensor:
        """(M, ...) each image's of (N, ...) values of the samples."""
        return values if self.rows is None else values[self.rows]


@dataclass(frozen=True)
class Score:
    """What a model made of a half."""

    losses: Tensor
    """(N,) mean loss of each sample's images in this half, 0 where it has none."""

    sums: Tensor
    """(3,) float64: losses, hits and number of the images that count."""


def clean_half(batch: Batch) -> Half:
    """The clean images that are trained on."""
    if len(batch.clean_rows) == len(batch.labels):
        return Half(batch.images, None)
    return Half(batch.images[batch.clean_rows], batch.clean_rows)


def adversarial_half(batch: Batch, fresh: Tensor) -> Half:
    """Stored twins and fresh adversaries.

    Args:
        batch: N samples.
        fresh: (N, C, H, W) fresh adversaries, or (0, C, H, W).
    """
    if len(fresh) and not len(batch.twins):
        return Half(fresh, None)
    fresh_rows = torch.arange(len(fresh), device=fresh.device)
    return Half(concatenated([batch.twins, fresh]), torch.cat([batch.twin_rows, fresh_rows]))


def concatenated(images: list[Tensor]) -> Tensor:
    """All images in one tensor; a lone part as it is: a copy may have another layout and round otherwise."""
    parts = [part for part in images if len(part)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else images[0]


def score(batch: Batch, half: Half, logits: Tensor) -> Score:
    """Losses and hits of the (M, classes) logits of a half's M images.

    A sample with several images counts their mean.
    """
    labels, weights = half.of(batch.labels), half.of(batch.weights)
    losses = F.cross_entropy(logits, labels, reduction="none")  # (M,)
    with torch.no_grad():
        hits = logits.argmax(dim=1) == labels
        sums = torch.stack([losses * weights, hits * weights, weights]).sum(dim=1, dtype=torch.float64)
    if half.rows is None:
        return Score(losses, sums)
    nothing = torch.zeros_like(batch.weights)
    images = nothing.index_add(0, half.rows, torch.ones_like(weights))  # (N,)
    return Score(nothing.index_add(0, half.rows, losses) / images.clamp(min=1), sums)


def batch_loss(batch: Batch, clean: Score | None, adversarial: Score | None, clean_weight: float) -> Tensor:
    """Combined loss, the weighted mean over the batch; linear, so that the halves' own losses add up to it.

    Args:
        batch: N samples; one that has no adversary counts its clean loss in full.
        clean: Of the clean half; None where it is not part of this pass.
        adversarial: Of the adversarial half; likewise, but one of them is given.
        clean_weight: λ.
    """
    if batch.is_full and (batch.fresh or not len(batch.twin_rows)):
        # All samples count alike: the same by fewer operations.
        weight = clean_weight if batch.fresh else 1.0
        parts = [] if clean is None else [weight * clean.losses.mean()]
        if adversarial is not None:
            parts.append((1 - weight) * adversarial.losses.mean())
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]
    nothing = torch.zeros_like(batch.weights)
    return combined_loss(
        nothing if clean is None else clean.losses,
        nothing if adversarial is None else adversarial.losses,
        clean_weight,
        weights=batch.weights,
        has_adversarial=_attacked(batch),
    ).total


def _attacked(batch: Batch) -> Tensor | None:
    """(N,) bool: samples with an adversary, stored or fresh; None for all."""
    if batch.fresh:
        return None
    return torch.zeros_like(batch.weights, dtype=torch.bool).index_fill(0, batch.twin_rows, True)

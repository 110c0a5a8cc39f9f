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

    rows: Tensor
    """(M,) int64: the samples of the batch that they are of."""


@dataclass(frozen=True)
class Score:
    """What a model made of a half."""

    losses: Tensor
    """(N,) mean loss of each sample's images in this half, 0 where it has none."""

    sums: Tensor
    """(3,) float64: losses, hits and number of the images that count."""


def clean_half(batch: Batch) -> Half:
    """The clean images that are trained on."""
    whole = len(batch.clean_rows) == len(batch.labels)
    return Half(batch.images if whole else batch.images[batch.clean_rows], batch.clean_rows)


def adversarial_half(batch: Batch, fresh: Tensor) -> Half:
    """Stored twins and fresh adversaries.

    Args:
        batch: N samples.
        fresh: (N, C, H, W) fresh adversaries, or (0, C, H, W).
    """
    fresh_rows = torch.arange(len(fresh), device=fresh.device)
    return Half(concatenated([batch.twins, fresh]), torch.cat([batch.twin_rows, fresh_rows]))


def concatenated(images: list[Tensor]) -> Tensor:
    """All images in one tensor; a lone one as it is: a copy may have another layout and round otherwise."""
    parts = [part for part in images if len(part)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else images[0]


def score(batch: Batch, rows: Tensor, logits: Tensor) -> Score:
    """Losses and hits of the (M, classes) logits of a half's M images.

    A sample with several images counts their mean.
    """
    losses = F.cross_entropy(logits, batch.labels[rows], reduction="none")  # (M,)
    nothing = torch.zeros_like(batch.weights)
    images = nothing.index_add(0, rows, torch.ones_like(batch.weights[rows]))  # (N,)
    with torch.no_grad():
        hits = (logits.argmax(dim=1) == batch.labels[rows]).double()
        weights = batch.weights[rows].double()
        sums = torch.stack([losses.double() * weights, hits * weights, weights]).sum(dim=1)
    return Score(nothing.index_add(0, rows, losses) / images.clamp(min=1), sums)


def batch_loss(
    batch: Batch, clean: Tensor, adversarial: Tensor, attacked: Tensor, clean_weight: float
) -> Tensor:
    """Combined loss, the weighted mean over the batch; linear, so that the halves' own losses add up to it.

    Args:
        batch: N samples.
        clean: (N,) clean losses, or zeros for the adversarial half alone.
        adversarial: (N,) adversarial losses, or zeros for the clean half alone.
        attacked: (N,) bool: samples that have an adversary; another counts its clean loss in full.
        clean_weight: λ.
    """
    return combined_loss(
        clean, adversarial, clean_weight, weights=batch.weights, has_adversarial=attacked
    ).total


def attacked_samples(batch: Batch) -> Tensor:
    """(N,) bool: samples with an adversary, stored or fresh."""
    if batch.fresh:
        return torch.ones_like(batch.weights, dtype=torch.bool)
    return torch.zeros_like(batch.weights, dtype=torch.bool).index_fill(0, batch.twin_rows, True)

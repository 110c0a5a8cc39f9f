"""The training loss: Step 8 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A combined loss and its parts, all scalars.

    Attributes:
        total: what is minimized; carries the graph.
        clean: weighted mean of the clean losses, detached.
        adversarial: weighted mean of the adversarial losses over the samples that have a twin, detached; 0
            where none has one; None where no adversarial losses were given.
    """

    total: Tensor
    clean: Tensor
    adversarial: Tensor | None


def combined_loss(
    clean_losses: Tensor,
    adversarial_losses: Tensor | None,
    clean_weight: float,
    *,
    weights: Tensor | None = None,
    has_adversarial: Tensor | None = None,
) -> Loss:
    """λ ℓ(f(x), y) + (1 − λ) ℓ(f(x_adv), y), averaged over the batch.

    With wᵢ the sample's weight, cᵢ and aᵢ its two losses, and λᵢ = λ for a sample with an adversarial twin
    but λᵢ = 1 for one without::

        total = Σ wᵢ (λᵢ cᵢ + (1 − λᵢ) aᵢ) / Σ wᵢ

    so a sample without a twin counts as much as any other, all of it on its clean loss. A batch whose
    weights are all 0 has a total of 0.

    Args:
        clean_losses: (N,) cᵢ.
        adversarial_losses: (N,) aᵢ, ignored where there is no twin; may be None only if λ is 1.
        clean_weight: λ in [0, 1].
        weights: (N,) wᵢ >= 0; None means 1 for all.
        has_adversarial: (N,) bool, which samples have a twin; None means all of them.

    Returns:
        The loss to minimize, and its two parts for the record.

    Raises:
        ValueError: if λ is outside [0, 1], or below 1 without adversarial losses.

    Examples:
        >>> clean, adversarial = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
        >>> combined_loss(clean, adversarial, clean_weight=0.5)
        Loss(total=tensor(3.), clean=tensor(1.5000), adversarial=tensor(4.5000))
        >>> combined_loss(clean, adversarial, 0.5, has_adversarial=torch.tensor([True, False])).total
        tensor(2.)
    """
    if not 0 <= clean_weight <= 1:
        raise ValueError(f"clean_weight is {clean_weight}: it must be in [0, 1]")
    if weights is None:
        weights = torch.ones_like(clean_losses)
    if adversarial_losses is None:
        if clean_weight < 1:
            raise ValueError(f"clean_weight is {clean_weight}, below 1: adversarial losses are needed")
        total = _weighted_mean(clean_losses, weights)
        return Loss(total, total.detach(), None)

    if has_adversarial is None:
        has_adversarial = torch.ones_like(clean_losses, dtype=torch.bool)
    mixed = clean_weight * clean_losses + (1 - clean_weight) * adversarial_losses
    per_sample = torch.where(has_adversarial, mixed, clean_losses)
    # where, not a product with the mask: a masked loss may be NaN.
    masked_adversarial = torch.where(has_adversarial, adversarial_losses, 0.0)
    return Loss(
        _weighted_mean(per_sample, weights),
        _weighted_mean(clean_losses, weights).detach(),
        _weighted_mean(masked_adversarial, weights * has_adversarial).detach(),
    )


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ w v / Σ w, and 0 where all weights are 0."""
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1)

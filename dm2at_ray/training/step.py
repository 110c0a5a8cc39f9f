"""One training step: Step 8 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025) on one batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.algorithm.losses import combined_loss
from dm2at_ray.training.adversaries import fresh_adversaries
from dm2at_ray.training.batch import Batch
from dm2at_ray.training.settings import TrainSettings


def train_step(
    model: nn.Module,
    bare: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: TrainSettings,
    *,
    global_count: int,
    world_size: int = 1,
) -> Tensor:
    """Make the adversaries, take one gradient step, and sum up the losses.

    DistributedDataParallel averages the workers' gradients, so each scales the mean over its share by share
    size x workers / global size: together they follow the gradient of the mean over the global batch, however
    unequal their shares.

    Args:
        model: The model in train mode, wrapped in DistributedDataParallel where there are several workers.
        bare: The same model, not wrapped.
        optimizer: Of the model's parameters, its learning rate already set.
        batch: This worker's share.
        settings: What is trained on.
        global_count: Samples of the global batch.
        world_size: Number of workers.

    Returns:
        (8,) float64, detached, on the device: see `SUMS` in `report.py`.
    """
    fresh = (
        fresh_adversaries(bare, batch.images, batch.labels, batch.start_keys, settings)
        if batch.fresh
        else batch.images[:0]
    )
    loss, sums = joint_loss(model, batch, fresh, settings.clean_weight)
    optimizer.zero_grad(set_to_none=True)
    (loss * (batch.samples * world_size / global_count)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return sums


def joint_loss(model: nn.Module, batch: Batch, fresh: Tensor, clean_weight: float) -> tuple[Tensor, Tensor]:
    """Combined loss of clean images, stored twins and fresh adversaries, from one joint forward pass.

    One pass, because two would normalize the halves by different batch statistics. A sample with several
    adversaries counts their mean, one with none counts its clean loss in full.

    Args:
        model: Maps (M, C, H, W) to logits (M, classes).
        batch: N samples.
        fresh: (N, C, H, W) fresh adversaries, or (0, C, H, W).
        clean_weight: λ.

    Returns:
        The weighted mean over the N samples, a scalar to differentiate; and the (8,) float64 sums.
    """
    count = len(batch.labels)
    fresh_rows = torch.arange(len(fresh), device=fresh.device)
    adversarial_rows = torch.cat([batch.twin_rows, fresh_rows])  # (A,)
    rows = torch.cat([batch.clean_rows, adversarial_rows])  # (R + A,)
    clean_images = batch.images if len(batch.clean_rows) == count else batch.images[batch.clean_rows]
    parts = [part for part in (clean_images, batch.twins, fresh) if len(part)]
    # A copy of a lone part might have another memory format, and round differently.
    logits = model(torch.cat(parts) if len(parts) > 1 else parts[0])  # (R + A, classes)
    losses = F.cross_entropy(logits, batch.labels[rows], reduction="none")
    clean_part, adversarial_part = losses.split([len(batch.clean_rows), len(adversarial_rows)])

    nothing = torch.zeros_like(batch.weights)
    clean = nothing.index_add(0, batch.clean_rows, clean_part)  # (N,)
    attacks = nothing.index_add(0, adversarial_rows, torch.ones_like(adversarial_part))  # (N,)
    adversarial = nothing.index_add(0, adversarial_rows, adversarial_part) / attacks.clamp(min=1)
    loss = combined_loss(
        clean, adversarial, clean_weight, weights=batch.weights, has_adversarial=attacks > 0
    ).total

    with torch.no_grad():
        hits = (logits.argmax(dim=1) == batch.labels[rows]).double()
        weights = batch.weights[rows].double()
        halves = torch.stack([losses.double() * weights, hits * weights, weights])  # (3, R + A)
        clean_half, adversarial_half = halves.split([len(clean_part), len(adversarial_part)], dim=1)
        whole = torch.stack([loss.double() * batch.samples, batch.weights.double().sum()])
        sums = torch.cat([clean_half.sum(dim=1), adversarial_half.sum(dim=1), whole])
    return loss, sums

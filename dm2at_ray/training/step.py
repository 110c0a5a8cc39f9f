"""One training step: Step 8 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025) on one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import random_start
from dm2at_ray.training.adversaries import fresh_adversaries
from dm2at_ray.training.batch import Batch
from dm2at_ray.training.draws import pixel_uniforms
from dm2at_ray.training.forward import forward
from dm2at_ray.training.grad_align import misalignment
from dm2at_ray.training.modes import attacked_in
from dm2at_ray.training.passes import Losses, Passes
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
    epsilon: float | None = None,
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
        epsilon: Radius of fresh adversaries in this step; None takes the settings'.

    Returns:
        (8,) float64, detached, on the device: see `SUMS` in `report.py`. The total includes GradAlign's term.
    """
    epsilon = settings.epsilon if epsilon is None else epsilon
    scale = batch.samples * world_size / global_count
    passes = Passes(model, batch, settings, scale, world_size)
    optimizer.zero_grad(set_to_none=True)
    penalty = None
    if batch.fresh and settings.grad_align > 0 and epsilon > 0:
        penalty = _align(bare, batch, settings, epsilon, scale)
    losses = _passes(passes, bare, epsilon)
    optimizer.step()
    total = losses.total if penalty is None else losses.total + penalty
    whole = torch.stack([total.double() * batch.samples, batch.weights.sum(dtype=torch.float64)])
    return torch.cat([losses.sums, whole])


def _passes(passes: Passes, bare: nn.Module, epsilon: float) -> Losses:
    batch, settings = passes.batch, passes.settings
    if settings.passes == "shared" and batch.fresh and settings.clean_weight > 0:
        return passes.shared(epsilon)
    fresh = batch.images[:0]
    if batch.fresh:
        fresh = fresh_adversaries(
            bare,
            batch.images,
            batch.labels,
            batch.start_keys,
            settings,
            epsilon=epsilon,
            counts=_counts(batch),
        )
    return passes.joint(fresh) if settings.passes == "joint" else passes.two(fresh)


def _align(bare: nn.Module, batch: Batch, settings: TrainSettings, epsilon: float, scale: float) -> Tensor:
    """Add the gradient of GradAlign's term, the mean over the batch, and return the term.

    It goes through the bare model, whose gradients wait in the parameters to be averaged over the workers
    with those of the step's last pass.
    """
    # Keys of their own, or the random start of the attack would be drawn again.
    uniforms = pixel_uniforms(~batch.start_keys, batch.images[0].numel())
    offsets = random_start(batch.images, epsilon, uniforms)

    def logits_of(images: Tensor) -> Tensor:
        return forward(bare, images, settings.precision, _counts(batch))

    with attacked_in(bare, settings.attack_mode, batch.images.device):
        values = misalignment(logits_of, batch.images, batch.labels, offsets, batch.weights)  # (N,)
        penalty = settings.grad_align * (values * batch.weights).sum() / max(batch.samples, 1)
        (penalty * scale).backward()  # type: ignore[no-untyped-call]
    return penalty.detach()


def _counts(batch: Batch) -> Tensor | None:
    """(N,) which images count, or None where all do."""
    return None if batch.is_full else batch.weights

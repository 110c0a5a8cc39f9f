"""The held-out part of the labeled set, and clean, FGSM and PGD accuracy on it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm, pgd, random_start
from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.training.draws import pixel_keys, pixel_uniforms
from dm2at_ray.training.forward import forward
from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.settings import TrainSettings
from dm2at_ray.training.stability import is_adversarial
from dm2at_ray.training.transfer import to_device, to_pixels

LEAST_LABELS = 500
"""With fewer labels nothing is held out: on a tenth of them, less than 50 images, chance alone moves an
accuracy around 0.5 by 0.2 (two standard errors of a difference), the fall that is looked for."""

SHARE = 0.1
"""Of the labels, at most, that is held out; and of an epoch's cost, about, that the looks may add to it."""

PGD_STEPS = 10
PGD_REACH = 2.5
PASSES_OF_A_LOOK = 1 + 3 + (2 * PGD_STEPS + 1)
"""Forward and backward passes for each image: one clean, three for FGSM, two a step and one for PGD."""

_BATCH = 256


def hold_out(labeled: LabeledSet, settings: TrainSettings, seed: int) -> tuple[LabeledSet, LabeledSet | None]:
    """Divide the labeled set into what is trained on and what is held out.

    A sample's side depends on its own draw, by (seed, sample id), which is compared with a share that never
    grows with the labeled set: what is held out in a round was held out in all earlier ones that held
    anything out. Above 10 times `settings.validation` labels the share shrinks, and the samples that it lets
    go are trained on from then on.

    Args:
        labeled: The whole labeled set.
        settings: Says how many to hold out.
        seed: Seed of the run.

    Returns:
        The part to train on, and about a tenth of the set or `settings.validation` samples, whichever are
        fewer. None is held out of fewer than `LEAST_LABELS`, nor where nothing would look at it: in a
        training on clean images without early stop.
    """
    count = len(labeled)
    is_looked_at = is_adversarial(settings) or settings.early_stop is not None
    if not settings.validation or not is_looked_at or count < LEAST_LABELS:
        return labeled, None
    draws = uniform(seed, 0, Stream.VALIDATION, labeled.sample_ids, 1)[:, 0]
    held = draws < min(SHARE, settings.validation / count)
    if not held.any():
        return labeled, None
    return labeled.subset(np.flatnonzero(~held)), labeled.subset(np.flatnonzero(held))


def epochs_between_looks(settings: TrainSettings, trained_on: int, held_out: int) -> int:
    """Epochs from one look to the next, so that looks add about a tenth to the cost of the training.

    Costs are counted in forward and backward passes: the interval is the same on every machine.

    Examples:
        >>> epochs_between_looks(TrainSettings(attack="rs_fgsm"), trained_on=900, held_out=100)
        5
        >>> epochs_between_looks(TrainSettings(attack="rs_fgsm"), trained_on=50_000, held_out=256)
        1
    """
    epoch = passes_of_a_sample(settings) * trained_on
    return max(1, math.ceil(PASSES_OF_A_LOOK * held_out / (SHARE * epoch)))


def passes_of_a_sample(settings: TrainSettings) -> int:
    """Forward and backward passes that one sample takes in one epoch.

    Examples:
        >>> passes_of_a_sample(TrainSettings(attack="fgsm"))  # attack, clean half, adversarial half
        6
        >>> passes_of_a_sample(TrainSettings(attack="pgd", attack_steps=7))
        18
    """
    passes = 2 if settings.clean_weight > 0 else 0
    if settings.clean_weight == 1:
        return passes
    if settings.adversaries != "fresh":
        passes += 2
    if settings.adversaries != "stored":
        steps = settings.attack_steps if settings.attack == "pgd" else 1
        made = 0 if settings.passes == "shared" else 2 * steps
        passes += 2 + made + (settings.attack_label == "predicted")
    if settings.grad_align > 0:
        passes += 8  # two input gradients, each differentiated again
    return passes


def measure(
    model: nn.Module,
    held_out: LabeledSet,
    epsilon: float,
    *,
    seed: int,
    round_index: int,
    rank: int,
    world_size: int,
    device: torch.device | str,
) -> tuple[float, float, float]:
    """Clean, FGSM and PGD accuracy, each worker measuring its share: one collective operation.

    PGD takes 10 steps from a random start that is the same at every look, so that looks differ by the model
    alone.

    Args:
        model: The bare model; left in eval mode.
        held_out: The same on all workers.
        epsilon: Radius of both attacks.
        seed: Seed of the run.
        round_index: Round of the run.
        rank: Of this worker.
        world_size: Workers.
        device: Of this worker.

    Returns:
        Accuracies over all workers' shares, the same on all of them.
    """
    device = torch.device(device)
    model.eval()
    hits = torch.zeros(3, dtype=torch.float64, device=device)
    rows = np.arange(rank, len(held_out), world_size)
    for start in range(0, len(rows), _BATCH):
        batch = held_out.subset(rows[start : start + _BATCH])
        keys = to_device(pixel_keys(seed, round_index, 0, batch.sample_ids), device)
        labels = to_device(batch.labels.astype(np.int64), device)
        images = to_pixels(batch.images, device)
        hits += _hits(model, images, labels, keys, epsilon)
    if world_size > 1:
        dist.all_reduce(hits)
    clean, one_step, iterated = (hits / len(held_out)).tolist()
    return clean, one_step, iterated


def _hits(network: nn.Module, images: Tensor, labels: Tensor, keys: Tensor, epsilon: float) -> Tensor:
    """Right answers (3,) float64 on clean images, under FGSM and under PGD."""
    model = partial(forward, network)
    start = random_start(images, epsilon, pixel_uniforms(keys, images[0].numel()))
    step_size = PGD_REACH * epsilon / PGD_STEPS
    attacked = (
        images,
        fgsm(model, images, labels, epsilon),
        pgd(model, images, labels, epsilon, steps=PGD_STEPS, step_size=step_size, start=start),
    )
    with torch.no_grad():
        return torch.stack([(model(x).argmax(dim=1) == labels).double().sum() for x in attacked])

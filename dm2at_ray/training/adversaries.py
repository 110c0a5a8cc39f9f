"""Fresh adversaries: made in every step against the model as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm, pgd, predicted_labels, random_start
from dm2at_ray.training.draws import pixel_uniforms
from dm2at_ray.training.forward import forward
from dm2at_ray.training.modes import attacked_in
from dm2at_ray.training.settings import TrainSettings

RS_FGSM_STEP = 1.25
"""Step of `rs_fgsm` as a multiple of epsilon (Wong et al., arXiv 2001.03994)."""

N_FGSM_REACH = 2.0
"""Random start of `n_fgsm` as a multiple of epsilon (de Jorge et al., arXiv 2202.01181)."""

PGD_REACH = 2.5
"""Steps of `pgd` together as a multiple of epsilon (Madry et al., arXiv 1706.06083)."""


def fresh_adversaries(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start_keys: Tensor,
    settings: TrainSettings,
    *,
    epsilon: float | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Attack each image, with the model in `settings.attack_mode`; nothing of the model changes.

    Args:
        model: The bare model: an attack through DistributedDataParallel would wait for the other workers.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) true labels; unused where `settings.attack_label` is `predicted`.
        start_keys: (N,) int64 keys of the random starts.
        settings: The attack and its steps.
        epsilon: Radius of this step's ball; None takes the settings'.
        counts: (N,) 1 for an image that counts, 0 for one that only fills up the share; None counts all.

    Returns:
        (N, C, H, W) in [0, 1], within epsilon of the images but for `n_fgsm`, detached.
    """
    epsilon = settings.epsilon if epsilon is None else epsilon

    def logits_of(points: Tensor) -> Tensor:
        logits = forward(model, points, settings.precision, counts)
        # A filler's loss would pull at the others through the statistics of batch norm.
        return logits if counts is None else torch.where(counts[:, None] > 0, logits, logits.detach())

    with attacked_in(model, settings.attack_mode, images.device):
        if settings.attack_label == "predicted":
            labels = predicted_labels(logits_of, images)
        if settings.attack == "fgsm":
            return fgsm(logits_of, images, labels, epsilon)
        uniforms = pixel_uniforms(start_keys, images[0].numel())
        if settings.attack == "n_fgsm":
            start = random_start(images, N_FGSM_REACH * epsilon, uniforms)
            return fgsm(logits_of, images, labels, epsilon, start, project=False)
        start = random_start(images, epsilon, uniforms)
        if settings.attack == "rs_fgsm":
            return fgsm(logits_of, images, labels, epsilon, start, step_size=RS_FGSM_STEP * epsilon)
        steps = settings.attack_steps
        step_size = PGD_REACH * epsilon / steps
        return pgd(logits_of, images, labels, epsilon, steps=steps, step_size=step_size, start=start)

"""Fresh adversaries: made in every step against the model as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm, pgd, predicted_labels, random_start
from dm2at_ray.training.draws import pixel_uniforms
from dm2at_ray.training.settings import TrainSettings

RS_FGSM_STEP = 1.25
"""Step of `rs_fgsm` as a multiple of epsilon (Wong et al., arXiv 2001.03994)."""

N_FGSM_REACH = 2.0
"""Random start of `n_fgsm` as a multiple of epsilon (de Jorge et al., arXiv 2202.01181)."""

PGD_REACH = 2.5
"""Steps of `pgd` together as a multiple of epsilon (Madry et al., arXiv 1706.06083)."""


def fresh_adversaries(
    model: nn.Module, images: Tensor, labels: Tensor, start_keys: Tensor, settings: TrainSettings
) -> Tensor:
    """Attack each image, with the model in eval mode, as it will be used; parameters keep their gradients.

    Args:
        model: The bare model: an attack through DistributedDataParallel would wait for the other workers.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) true labels; unused where `settings.attack_label` is `predicted`.
        start_keys: (N,) int64 keys of the random starts.
        settings: The attack, its epsilon and its steps.

    Returns:
        (N, C, H, W) in [0, 1], within epsilon of the images but for `n_fgsm`, detached.
    """
    epsilon = settings.epsilon
    with evaluating(model):
        if settings.attack_label == "predicted":
            labels = predicted_labels(model, images)
        if settings.attack == "fgsm":
            return fgsm(model, images, labels, epsilon)
        uniforms = pixel_uniforms(start_keys, images[0].numel())
        if settings.attack == "n_fgsm":
            start = random_start(images, N_FGSM_REACH * epsilon, uniforms)
            return fgsm(model, images, labels, epsilon, start, project=False)
        start = random_start(images, epsilon, uniforms)
        if settings.attack == "rs_fgsm":
            return fgsm(model, images, labels, epsilon, start, step_size=RS_FGSM_STEP * epsilon)
        steps = settings.attack_steps
        step_size = PGD_REACH * epsilon / steps
        return pgd(model, images, labels, epsilon, steps=steps, step_size=step_size, start=start)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and each of its modules back into the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

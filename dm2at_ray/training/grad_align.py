"""GradAlign: input gradients that point the same way all over the ball."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dm2at_ray.algorithm.attacks import Model

_SHORTEST = 1e-30
"""A gradient with no larger component has no direction that could be differentiated in float32."""


def misalignment(
    model: Model, images: Tensor, labels: Tensor, offsets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """1 - cos(∇ₓ ℓ(f(x), y), ∇ₓ ℓ(f(x + η), y)) (Andriushchenko and Flammarion, arXiv 2007.02617, eq. 5).

    Single-step attacks stop working where the two gradients part, which is how catastrophic overfitting
    begins. To be differentiated through both gradients, hence twice through the model.

    Args:
        model: Maps (N, C, H, W) to logits (N, classes).
        images: (N, C, H, W), x.
        labels: (N,) int64, y.
        offsets: (N, C, H, W), η, uniform in the ball.
        weights: (N,) of the samples' losses, so that a filler has no gradient; None means 1.

    Returns:
        (N,), between 0 and 2, with a graph; 0 where one of the gradients is 0 and so has no direction.
    """
    at_image = _input_gradient(model, images, labels, weights)  # (N, D)
    nearby = _input_gradient(model, images + offsets, labels, weights)  # (N, D)
    lengths = [gradient.detach().abs().amax(dim=1, keepdim=True) for gradient in (at_image, nearby)]  # (N, 1)
    defined = (lengths[0] > _SHORTEST) & (lengths[1] > _SHORTEST)
    # Cosines do not depend on lengths, but squares of short gradients are 0, and where both are, NaN.
    first, second = (
        torch.where(defined, gradient, 1.0) / torch.where(defined, length, 1.0)
        for gradient, length in zip((at_image, nearby), lengths, strict=True)
    )
    return torch.where(defined[:, 0], 1 - F.cosine_similarity(first, second, dim=1), 0.0)


def _input_gradient(model: Model, images: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    points = images.detach().requires_grad_()
    losses = F.cross_entropy(model(points), labels, reduction="none")
    total = losses.sum() if weights is None else (losses * weights).sum()
    (gradient,) = torch.autograd.grad(total, points, create_graph=True)
    return gradient.flatten(1)

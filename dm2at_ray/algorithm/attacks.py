"""Adversarial perturbations: Step 5 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025), and PGD.

All attacks maximize the cross-entropy inside the ball {x' : |x' − x| <= ε, 0 <= x' <= 1}, pixel by pixel.
They leave the parameters' ``.grad`` and the model's mode alone, work under ``no_grad`` and
``inference_mode``, and return tensors without a graph.

The mode is the caller's decision. In eval mode a sample's result does not depend on its batch and batch
norm's running statistics stay put; in train mode the batch's own statistics are attacked, and every forward
pass moves the running ones. Pass the bare module, not its distributed wrapper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[[Tensor], Tensor]


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    start: Tensor | None = None,
    *,
    step_size: float | None = None,
    project: bool = True,
) -> Tensor:
    """One signed gradient step: x_adv = clip(x + ε sign ∇ₓ ℓ(f(x), y)) (Goodfellow et al., arXiv 1412.6572).

    With a ``start`` the gradient is taken at clip(x + start, 0, 1) and the step goes on from there. A uniform
    start in the ball with ``step_size`` 1.25 ε is RS-FGSM (Wong et al., arXiv 2001.03994); one in twice the
    ball with ``project=False`` is N-FGSM (de Jorge et al., arXiv 2202.01181).

    Args:
        model: images (N, C, H, W) to logits (N, classes).
        x: (N, C, H, W) floating, in [0, 1].
        y: (N,) int64, true labels or ``predicted_labels``.
        epsilon: radius of the ball in pixel units, >= 0; 0 gives ``x`` back exactly.
        start: (N, C, H, W) offset to begin at, or None.
        step_size: length of the step; None means ``epsilon``.
        project: keep the result within ``epsilon`` of ``x``; False clips to [0, 1] only.

    Returns:
        (N, C, H, W) of the dtype of ``x``, without a graph.

    Raises:
        ValueError: if ``epsilon`` is negative.
    """
    lower, upper = _ball(x, epsilon) if project else (torch.zeros_like(x), torch.ones_like(x))
    point = x if start is None else (x + start).clamp(0, 1)
    step = epsilon if step_size is None else step_size
    return (point + step * _input_gradient(model, point, y).sign()).clamp(lower, upper).detach()


def signed_step(x: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """`fgsm` where ∇ₓ is at hand already: clip(x + ε sign ∇ₓ).

    Args:
        x: (N, C, H, W) floating, in [0, 1].
        gradient: (N, C, H, W), of the loss that is to rise.
        epsilon: radius of the ball in pixel units, >= 0; 0 gives ``x`` back exactly.

    Returns:
        (N, C, H, W) of the dtype of ``x``, without a graph.

    Raises:
        ValueError: if ``epsilon`` is negative.

    Examples:
        >>> signed_step(torch.tensor([0.5, 0.875]), torch.tensor([-3.0, 2.0]), 0.25)
        tensor([0.2500, 1.0000])
    """
    radius = _radius(x, epsilon)
    with torch.no_grad():
        point = gradient.sign().mul_(radius).add_(x).clamp_(0, 1)
        return _pulled_in(point, x, radius)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """Signed gradient steps, each followed by a projection onto the ball (Madry et al., arXiv 1706.06083).

    A restart is another call with another ``start``; the caller keeps each sample's worst result.

    Args:
        model: images (N, C, H, W) to logits (N, classes).
        x: (N, C, H, W) floating, in [0, 1].
        y: (N,) int64, true labels or ``predicted_labels``.
        epsilon: radius of the ball in pixel units, >= 0; 0 gives ``x`` back exactly.
        steps: number of gradient steps, >= 1.
        step_size: length of each step in pixel units.
        start: (N, C, H, W) offset to begin at (``random_start``), projected onto the ball; None starts at x.

    Returns:
        (N, C, H, W) of the dtype of ``x``, without a graph.

    Raises:
        ValueError: if ``epsilon`` is negative or ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: PGD takes at least one")
    lower, upper = _ball(x, epsilon)
    point = x if start is None else (x + start).clamp(lower, upper)
    for _ in range(steps):
        point = (point + step_size * _input_gradient(model, point, y).sign()).clamp(lower, upper)
    return point.detach()


def random_start(x: Tensor, epsilon: float, uniforms: Tensor) -> Tensor:
    """Spread uniform numbers over the ball: an offset 2 u − 1 times ε for every pixel.

    Args:
        x: (N, C, H, W) images the offset is for; gives shape, dtype and device.
        epsilon: radius in pixel units.
        uniforms: N·C·H·W numbers in [0, 1], of any shape and device: from ``counter_rng.uniform`` where the
            result may not depend on the batch, else from ``torch.rand`` with a generator.

    Returns:
        (N, C, H, W) in [−ε, ε].

    Examples:
        >>> random_start(torch.zeros(1, 1, 1, 3), 0.5, torch.tensor([[0.0, 0.5, 1.0]]))
        tensor([[[[-0.5000,  0.0000,  0.5000]]]])
    """
    return epsilon * (2 * uniforms.to(x).reshape(x.shape) - 1)


@torch.no_grad()
def predicted_labels(model: Model, x: Tensor) -> Tensor:
    """ŷ = argmax f(x): the label an attack is made against while the true one is unknown.

    Args:
        model: images (N, C, H, W) to logits (N, classes).
        x: (N, C, H, W).

    Returns:
        (N,) int64.
    """
    return model(x).argmax(dim=-1)


def _input_gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """∇ₓ of the summed cross-entropy: the sum, so that no sample's gradient depends on the batch size."""
    with torch.inference_mode(False), torch.enable_grad():
        # A clone, because autograd refuses tensors that were made in inference mode.
        point = x.clone().detach().requires_grad_()
        loss = F.cross_entropy(model(point), y.clone(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
    return gradient


@torch.no_grad()
def _ball(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The lowest and the highest allowed value of every pixel."""
    radius = _radius(x, epsilon)
    lower, upper = _pulled_in(x - radius, x, radius), _pulled_in(x + radius, x, radius)
    return lower.clamp_(min=0), upper.clamp_(max=1)


def _radius(x: Tensor, epsilon: float) -> Tensor:
    """Epsilon as a scalar of the dtype of ``x``."""
    if epsilon < 0:
        raise ValueError(f"epsilon is {epsilon}: a radius cannot be negative")
    return torch.full((), epsilon, dtype=x.dtype, device=x.device)


def _pulled_in(points: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """Points, at most ``radius`` from ``x`` but for their rounding, none of them beyond; in place.

    Rounding can push a point one float outside: that is one float too far for a certified radius.
    """
    # Arithmetic, and exact: on a CPU torch.where takes longer than all of this.
    too_far = (points - x).abs_().gt_(radius)  # 1 or 0
    return points.addcmul_(too_far, torch.nextafter(points, x).sub_(points))

"""AutoAttack (Croce & Hein, arXiv 2003.01690), by its authors' own code: the package `pyautoattack`."""

from __future__ import annotations

import copy
import importlib.util

import torch
from torch import Tensor, nn

from dm2at_ray.errors import UserError

TARGETS = 9
"""Wrong classes that the targeted attacks of the standard version lead to, where there are so many."""

LEAST_CLASSES_FOR_DLR = 4
"""The targeted DLR loss divides by a difference to the fourth highest logit."""


def require_autoattack() -> None:
    """Insist that AutoAttack is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("pyautoattack") is None:
        raise UserError(
            "attack autoattack: the package pyautoattack is not installed; "
            "install the extra: pip install 'dm2at-ray[robust]'"
        )


def attacks_for(num_classes: int) -> list[str]:
    """The attacks of the standard version, in order; those with a DLR loss from four classes on.

    Examples:
        >>> attacks_for(10), attacks_for(2)
        (['apgd-ce', 'apgd-t', 'fab-t', 'square'], ['apgd-ce', 'fab-t', 'square'])
    """
    standard = ["apgd-ce", "apgd-t", "fab-t", "square"]
    return [name for name in standard if name != "apgd-t" or num_classes >= LEAST_CLASSES_FOR_DLR]


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, *, num_classes: int, seed: int
) -> Tensor:
    """Run the standard version: each attack on the images that the ones before it have not broken.

    APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB (100 steps each, no restarts) and
    5,000 queries of Square. Its random numbers come from the seed and a sample's place in the batch, so the
    result depends on the batch as a whole.

    Args:
        model: Images (N, C, H, W) to logits (N, num_classes), in eval mode.
        x: (N, C, H, W) float32, in [0, 1].
        y: (N,) int64, true labels.
        epsilon: Radius of the L∞ ball in pixel units.
        num_classes: Number of logits, at least 2.
        seed: Of the library's random numbers; the global generators are left as they were.

    Returns:
        (N, C, H, W): adversarial examples where one was found, elsewhere the images themselves.

    Raises:
        UserError: AutoAttack is not installed.
    """
    require_autoattack()
    from pyautoattack import AutoAttack

    # FAB leaves gradients in whatever parameters want some.
    frozen = copy.deepcopy(model).requires_grad_(False)
    devices = [x.device] if x.is_cuda else []
    with torch.inference_mode(False), torch.random.fork_rng(devices):
        attack = AutoAttack(
            frozen,
            version="custom",
            attacks=attacks_for(num_classes),
            eps=epsilon,
            seed=seed,
            device=x.device,
        )
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, num_classes - 1)
        x_adv, _ = attack.run_standard_evaluation(x.clone(), y.clone(), batch_size=len(x))
    return x_adv

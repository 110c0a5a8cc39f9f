"""From a model's name to a network: the built-in one, torchvision's, the user's."""

from __future__ import annotations

import difflib

from torch import nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models.small_cnn import small_cnn
from dm2at_ray.models.user_model import user_network

BUILT_IN = {"small_cnn": small_cnn}


def make_network(name: str, num_classes: int, in_channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Build the network called ``name`` with fresh weights, on the CPU.

    Args:
        name: ``small_cnn``, a torchvision classifier, or an import path (a name with a colon).
        num_classes: number of logits.
        in_channels: image channels C.
        image_size: height and width in pixels.

    Returns:
        The network, normalized images (N, C, H, W) to logits (N, num_classes), and the image size it takes.

    Raises:
        ModelError: no model has this name, or it cannot be built so.
    """
    if ":" in name:
        return user_network(name, num_classes, in_channels, image_size), image_size
    if name in BUILT_IN:
        return BUILT_IN[name](num_classes, in_channels, image_size), image_size
    # Imported here, because torchvision costs every process 1.5 s that the small models do not need.
    from dm2at_ray.models.torchvision_models import classifier_names, torchvision_network

    known = [*BUILT_IN, *classifier_names()]
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3)
        meant = f"did you mean {' or '.join(close)}? Else give" if close else "give"
        raise ModelError(
            f"model {name!r} is unknown; {meant} small_cnn, a torchvision model, or package.module:function"
        )
    return torchvision_network(name, num_classes, in_channels, image_size)

"""Where a network meets the image."""

from __future__ import annotations

from torch import nn


def first_convolution(net: nn.Module) -> str | None:
    """The name of the stem: the first nn.Conv2d, or None."""
    return next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)

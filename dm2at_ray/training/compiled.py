"""torch.compile, so that nobody else sees it."""

from __future__ import annotations

from torch import nn


def compiled(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """Compile the model in place: names of its weights, its class and its wrappers stay as they are.

    Compilation itself comes with the first call, and again for another mode; a second size of batch brings
    a version for all sizes.

    Args:
        model: Any network; its passes cannot be differentiated twice any more.
        backend: Of `torch.compile`.

    Returns:
        The same model.
    """
    model.compile(backend=backend)
    return model

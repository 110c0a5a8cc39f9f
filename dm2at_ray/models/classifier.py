"""A classifier as Algorithm 2 sees it: normalization, features h (the body), head g."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models.modes import evaluating
from dm2at_ray.models.normalize import Normalize


class Classifier(nn.Module):
    """f(x) = g(h(x)): pixels in [0, 1] to features to logits.

    Args:
        normalize: the first layer, pixels to normalized pixels.
        body: h, normalized images (N, C, H, W) to features (N, D).
        head: g, features (N, D) to logits (N, num_classes).
    """

    def __init__(self, normalize: Normalize, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """Features h(x), the input of the last linear layer: Step 1 of Algorithm 2.

        Args:
            images: (N, C, H, W) pixels in [0, 1].

        Returns:
            (N, D) floats, D being ``feature_dim``.
        """
        return self.body(self.normalize(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""
        return self.head(self.features(images))

    @property
    def feature_dim(self) -> int:
        """Length D of a feature vector."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.head.out_features


def split_at_last_linear(
    model: nn.Module, images: Tensor, name: str = "the model"
) -> tuple[nn.Module, nn.Linear]:
    """Cut a network into body and head at the last nn.Linear that its forward pass calls.

    The network is taken over: in the body an Identity stands in that Linear's place. Both halves are run on
    ``images`` in eval mode and must give what the whole gave.

    Args:
        model: maps (N, C, H, W) to logits (N, num_classes).
        images: a probe, (N, C, H, W); on the meta device shapes alone are compared.
        name: what an error calls the model.

    Raises:
        ModelError: the network does not take the images, has no linear layer, uses its last one twice, or
            changes what that layer gives.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2))
        >>> body, head = split_at_last_linear(net, torch.rand(5, 1, 2, 2))
        >>> tuple(body(torch.rand(5, 1, 2, 2)).shape), head
        ((5, 3), Linear(in_features=3, out_features=2, bias=True))
    """
    with evaluating(model), torch.no_grad():
        logits, called = _run(model, images, name)
        if not called:
            raise ModelError(
                f"{name} calls no nn.Linear, so it has no features; end it with nn.Linear(features, classes)"
            )
        head = called[-1]
        if sum(layer is head for layer in called) > 1:
            raise ModelError(
                f"{name} calls its last nn.Linear ({head.in_features} to {head.out_features}) more than "
                "once in a forward pass; give the logits a layer of their own"
            )
        body = _without(model, head)
        features = body(images)
        if features.shape != (len(images), head.in_features) or not _same(head(features), logits):
            raise ModelError(
                f"{name} changes what its last nn.Linear ({head.in_features} to {head.out_features}) gives; "
                "return that layer's output as it is: logits without softmax, scaling or reshaping"
            )
    return body, head


def _run(model: nn.Module, images: Tensor, name: str) -> tuple[Tensor, list[nn.Linear]]:
    """The logits, and the linear layers in the order in which they were called."""
    called: list[nn.Linear] = []
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [
        linear.register_forward_hook(lambda layer, _in, _out: called.append(layer)) for linear in linears
    ]
    try:
        logits = model(images)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} cannot take images of shape {tuple(images.shape)}: {reason}; "
            "choose another image size, or mend its forward"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{name} maps images of shape {tuple(images.shape)} to {given}; "
            f"return logits of shape ({len(images)}, classes)"
        )
    return logits, called


def _without(model: nn.Module, head: nn.Linear) -> nn.Module:
    """The model with an Identity wherever ``head`` stood (a layer may have several names)."""
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is head]:
        model.set_submodule(path, nn.Identity())
    return model


def _same(actual: Tensor, expected: Tensor) -> bool:
    if actual.is_meta:
        return actual.shape == expected.shape
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True
    )

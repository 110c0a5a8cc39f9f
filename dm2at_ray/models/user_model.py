"""The user's own network, named by its import path ``package.module:function``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from torch import nn

from dm2at_ray.errors import ModelError

SIGNATURE = "(num_classes, in_channels, image_size)"


def user_network(path: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Import the function that ``path`` names and let it build the network.

    The function is called with the keywords ``num_classes``, ``in_channels`` and ``image_size`` and returns
    an nn.Module that maps (N, C, H, W) floats to logits (N, num_classes).

    Raises:
        ModelError: nothing can be imported under this path, or it is no such function.

    Examples:
        >>> user_network("dm2at_ray.models.small_cnn:small_cnn", 10, 1, 28).head
        Linear(in_features=64, out_features=10, bias=True)
    """
    build = _import(path)
    arguments = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"model {path} does not take {SIGNATURE}: {error}; give it these keywords"
        ) from error
    network = build(**arguments)
    if not isinstance(network, nn.Module):
        raise ModelError(f"model {path} returned {type(network).__name__}; return a torch.nn.Module")
    return network


def _import(path: str) -> Callable[..., object]:
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name or module_name.startswith("."):
        raise ModelError(f"model {path!r} is no import path; write it as package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"model {path}: importing {module_name} failed ({error}); "
            "install it, or put its folder on PYTHONPATH (on a cluster: in the job's working directory)"
        ) from error
    if not hasattr(module, function_name):
        raise ModelError(
            f"model {path}: {module_name} has no {function_name}; define def {function_name}{SIGNATURE} there"
        )
    function = getattr(module, function_name)
    if not callable(function):
        raise ModelError(
            f"model {path}: {function_name} is {type(function).__name__}, not a function; "
            f"define def {function_name}{SIGNATURE}"
        )
    return function

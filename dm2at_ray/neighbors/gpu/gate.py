"""Whether a device's kernels can be trusted: each is tried there before the first search."""

from __future__ import annotations

import functools
import warnings

import torch

OLDEST = (8, 0)
"""Compute capability from which Triton compiles what the kernels use (Ampere)."""


def available(device: torch.device | str) -> bool:
    """Tell whether the GPU kernels run on a device and give the right answers there.

    On the first question about a device every kernel is compiled and compared with plain torch on a small
    input, which takes some seconds (fewer once Triton has cached them). Where that fails, one warning says
    why, and the caller takes the portable backend.

    Examples:
        >>> available("cpu")
        False
    """
    device = torch.device(device)
    if device.type != "cuda":
        return False
    index = torch.cuda.current_device() if device.index is None else device.index
    return _works(torch.device("cuda", index))


@functools.cache
def _works(device: torch.device) -> bool:
    why = why_not(device)
    if why:
        warnings.warn(
            f"the GPU kernels of the neighbour search are not used on {device}, plain torch is, which is "
            f"many times slower: {why}",
            stacklevel=3,
        )
    return why is None


def why_not(device: torch.device) -> str | None:
    """Return in one line why the kernels cannot be used on a CUDA device; None where they can."""
    from dm2at_ray.neighbors.gpu import lang

    if lang.WHY_MISSING:
        return lang.WHY_MISSING
    if torch.version.hip:
        return "they are written for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        have, need = (".".join(map(str, each)) for each in (capability, OLDEST))
        return f"its compute capability is {have}, they need {need}"
    try:
        from dm2at_ray.neighbors.gpu.self_check import CHECKS

        with torch.cuda.device(device):
            for check in CHECKS:
                check(device)
    # Whatever a compiler or a driver raises, the portable backend still gives the answer.
    except Exception as error:
        text = str(error).strip() or "no message"
        return f"{type(error).__name__}: {text.splitlines()[0]}"
    return None

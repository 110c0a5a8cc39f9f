"""From the host's memory to the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_QUEUED_BYTES = 1 << 16
"""CUDA takes so many into its queue; of more a copy makes the host wait for all that the device has yet to
do, unless they are pinned."""


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array as a tensor on the device, without waiting for it."""
    # Arrays that lie in Ray's object store may not be written to, which torch cannot promise.
    array = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and tensor.nbytes > _QUEUED_BYTES:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, C, H, W) float32 in [0, 1]; one byte a pixel until on the device."""
    return as_pixels(to_device(images, device))


def as_pixels(images: Tensor) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, C, H, W) float32 in [0, 1], on their device."""
    return images.permute(0, 3, 1, 2).float().div_(255)

"""What callers hand over, as the tensors that a search reads: no copy where torch can read the memory."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import ConfigError

LARGEST_ID = 2**63 - 2
"""Merging keeps the largest int64 for what is missing."""

# torch can hold these and cannot index them.
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def as_features(features: Any) -> Tensor:
    """Return features (N, D) of any real type as a tensor without a gradient, on the device they are on.

    NumPy arrays are copied only where torch cannot read them: negative strides, another byte order, unsigned
    integers wider than a byte. Lists, data frames and Arrow tensors go through NumPy.

    Raises:
        ValueError: they are no real numbers, or no array.
    """
    x = _tensor(features, "features")
    if x.is_complex() or x.layout != torch.strided:
        raise ValueError(f"features must be dense real numbers, not {x.dtype} in {x.layout}")
    return x.to(torch.float32) if x.dtype in _UNSIGNED else x.detach()


def as_sample_ids(sample_ids: Any) -> Tensor:
    """Return sample ids (N,) of any integer type as int64.

    Raises:
        ValueError: they are no integers.
        ConfigError: an id is above LARGEST_ID.
    """
    ids = _tensor(sample_ids, "sample_ids")
    if ids.numel() == 0:
        return ids.to(torch.int64)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"sample_ids must be integers, not {ids.dtype}")
    signed = ids.to(torch.int64)
    smallest, largest = int(signed.min()), int(signed.max())
    if ids.dtype == torch.uint64 and smallest < 0:
        # It had no room in 63 bits.
        largest = smallest + 2**64
    if largest > LARGEST_ID:
        raise ConfigError(
            f"sample id {largest} is above 2^63 - 2, the largest there may be; renumber the pool"
        )
    return signed


def whole_number(name: str, value: Any) -> int:
    """Return a value that stands for a count as an int.

    Raises:
        ConfigError: it is no whole number.

    Examples:
        >>> whole_number("k", np.int64(3))
        3
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r} must be a whole number") from None


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if hasattr(values, "__cuda_array_interface__"):
        return torch.as_tensor(values)
    if hasattr(values, "to_numpy_ndarray"):  # Arrow's FixedShapeTensorArray
        values = values.to_numpy_ndarray()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are no array of numbers: {error}") from None
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must be an array of numbers, not of {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.dtype.itemsize for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # A search writes to nothing that it is given.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)

"""Where a training's images wait until a step takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.transfer import as_pixels, to_device

SHARE_OF_GPU = 0.1
"""Of a GPU's memory, that images may take there."""


class PlacedSet:
    """A labeled set for a training on one device.

    Its images stay on a GPU, as uint8, where they take at most a tenth of its memory: a host that gathers and
    sends images in every step falls behind a GPU that is done with them in ten milliseconds. Else, and for a
    training on the CPU, they stay on the host.

    Args:
        labeled: N samples.
        device: Where batches go.
    """

    def __init__(self, labeled: LabeledSet, device: torch.device) -> None:
        self.labeled = labeled
        self.device = device
        arrays = [array for array in (labeled.images, labeled.twins) if array is not None]
        self._on_gpu: list[Tensor] | None = None
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
            if sum(array.nbytes for array in arrays) <= SHARE_OF_GPU * memory:
                self._on_gpu = [torch.tensor(array, device=device) for array in arrays]

    def __len__(self) -> int:
        return len(self.labeled)

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the images of rows (n,), on the device, as (n, C, H, W) float32 in [0, 1]."""
        return self._pixels(0, self.labeled.images, rows)

    def twins(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the stored adversarial twins of rows (n,), likewise; none where there are no twins."""
        if self.labeled.twins is None:
            return self.images(rows[:0])
        return self._pixels(1, self.labeled.twins, rows)

    def to_device(self, array: NDArray[np.generic]) -> Tensor:
        """Copy an array to the device, without waiting for it."""
        return to_device(array, self.device)

    def _pixels(self, number: int, array: NDArray[np.uint8], rows: NDArray[np.int64]) -> Tensor:
        if self._on_gpu is None:
            return as_pixels(self.to_device(array[rows]))
        return as_pixels(self._on_gpu[number].index_select(0, self.to_device(rows)))

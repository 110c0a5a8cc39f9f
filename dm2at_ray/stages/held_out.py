"""One piece of the held-out images under attack: which of them a model still answers rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dm2at_ray.stages.batches import pad_rows
from dm2at_ray.stages.images import to_device

Perturb = Callable[[np.ndarray, Tensor, Tensor], Tensor]
"""Takes ids (N,), images (N, C, H, W) and labels (N,) to the images under attack."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out images, met in batches of one fixed size.

    A batch that is not full is padded with its last image: kernels round differently at other shapes.

    Attributes:
        ids: Sample ids (n,) int64, ascending.
        images: uint8 (n, H, W, C).
        labels: int64 (n,).
        batch_size: Images per forward pass.
        device: Where the model is.
    """

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    device: torch.device

    def right(self, model: nn.Module, perturb: Perturb, rows: np.ndarray | None = None) -> np.ndarray:
        """Which images the model answers rightly under an attack.

        Args:
            model: In eval mode.
            perturb: The attack; of a padded batch it attacks the padding too.
            rows: Places (m,) of the images to try; all of them if left out.

        Returns:
            bool (m,).
        """
        rows = np.arange(len(self.ids)) if rows is None else rows
        right = np.zeros(len(rows), bool)
        for begin in range(0, len(rows), self.batch_size):
            places = rows[begin : begin + self.batch_size]
            batch = pad_rows(places, self.batch_size)
            x = to_device(self.images[batch], self.device)
            y = torch.from_numpy(self.labels[batch]).to(self.device)
            x_adv = perturb(self.ids[batch], x, y)
            with torch.inference_mode():
                hits = model(x_adv).argmax(dim=1) == y
            right[begin : begin + len(places)] = hits[: len(places)].cpu().numpy()
        return right

    def right_after_all(self, model: nn.Module, attempts: Iterable[Perturb]) -> np.ndarray:
        """Which images the model answers rightly after every attempt; the next one tries those left only.

        Args:
            model: In eval mode.
            attempts: Attacks, such as PGD from one random start after the other.

        Returns:
            bool (n,).
        """
        left = np.arange(len(self.ids))
        for perturb in attempts:
            left = left[self.right(model, perturb, left)]
            if len(left) == 0:
                break
        right = np.zeros(len(self.ids), bool)
        right[left] = True
        return right

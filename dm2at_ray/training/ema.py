"""A moving average of the weights, which is used in their place."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights and of its running statistics of batch norm.

    In step t (from 1) the decay is at most (1 + t) / (10 + t): the average forgets how the training began,
    however short it is. In place of `torch.optim.swa_utils.AveragedModel`, which counts the steps in a tensor
    and makes the host wait for the device in each of them.

    Args:
        model: The bare model; the average begins with its weights after the first step.
        decay: Per step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        """The model with the averaged weights, in eval mode."""

        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights after a step into the average."""
        steps = self._steps
        decay = min(self._decay, (1 + steps) / (10 + steps)) if steps else 0.0
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        for is_float in (True, False):
            averaged = [mine for mine, _ in pairs if mine.is_floating_point() == is_float]
            weights = [its for mine, its in pairs if mine.is_floating_point() == is_float]
            if averaged:
                get_ema_multi_avg_fn(decay)(averaged, weights, steps)
        self._steps += 1

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Go on from an average of so many steps; from 0, the next step's weights begin it anew."""
        self.model.load_state_dict(weights)
        self._steps = steps


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())

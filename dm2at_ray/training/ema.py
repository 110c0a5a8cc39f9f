"""A moving average of the weights, which is used in their place."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights and of its running statistics of batch norm.

    In step t (from 1) the decay is at most (1 + t) / (10 + t): the average forgets how the training began,
    however short it is.

    Args:
        model: The bare model; the average begins with its weights after the first step.
        decay: Per step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        self._averaged.eval()

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in eval mode."""
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Take the weights after a step into the average."""
        self._averaged.update_parameters(model)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Go on from an average of so many steps; from 0, the next step's weights begin it anew."""
        self.model.load_state_dict(weights)
        self._averaged.n_averaged.fill_(steps)

    def _average(self, averaged: PARAM_LIST, weights: PARAM_LIST, steps: Tensor | int) -> None:
        decay = min(self._decay, (1 + int(steps)) / (10 + int(steps)))
        get_ema_multi_avg_fn(decay)(averaged, weights, steps)

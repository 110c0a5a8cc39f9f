"""A training between two epochs, on disk as safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dm2at_ray.training.ema import WeightAverage
from dm2at_ray.training.report import EpochReport, Outcome
from dm2at_ray.training.stability import went_back

_OPTIMIZER = "optimizer.safetensors"
_REPORT = "state.json"

WEIGHTS: dict[Outcome, str] = {
    "last": "weights.safetensors",
    "average": "average.safetensors",
    "best": "best.safetensors",
}
"""Files of a saved state by whose weights they hold."""


@dataclass(frozen=True)
class TrainState:
    """Everything that a training needs to go on as if it had not been cut.

    The schedule and all random draws are functions of the step and the epoch, so they have no state.
    """

    report: EpochReport
    """Of the last epoch done: its position, and what the result says where no epoch is left."""

    weights: dict[str, Tensor]
    """The model's state dict, on the CPU."""

    optimizer: dict[str, Tensor]
    """The optimizer's tensors by `<index of the parameter>.<name>`, on the CPU."""

    average: dict[str, Tensor] | None = None
    """State dict of the moving average of weights, on the CPU; None where there is none."""

    best: dict[str, Tensor] | None = None
    """State dict that the best look saw, on the CPU; None where there was none."""

    @staticmethod
    def capture(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        report: EpochReport,
        average: WeightAverage | None = None,
        best: dict[str, Tensor] | None = None,
    ) -> TrainState:
        """Copy the state of the bare model, its optimizer, its average and the best weights so far."""
        return TrainState(
            report=report,
            weights=_copies(model.state_dict()),
            optimizer={
                f"{index}.{name}": _copy(tensor)
                for index, values in optimizer.state_dict()["state"].items()
                for name, tensor in values.items()
                if tensor is not None
            },
            average=None if average is None else _copies(average.model.state_dict()),
            best=None if best is None else _copies(best),
        )

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
    ) -> None:
        """Put the bare model, its optimizer and its average, all made anew, into this state.

        Raises:
            RuntimeError: The weights are another model's.
        """
        model.load_state_dict(self.weights)
        per_parameter: dict[int, dict[str, Tensor]] = {}
        for key, tensor in self.optimizer.items():
            index, name = key.split(".", 1)
            per_parameter.setdefault(int(index), {})[name] = tensor.clone()
        fresh = optimizer.state_dict()
        optimizer.load_state_dict({"state": per_parameter, "param_groups": fresh["param_groups"]})
        if average is not None and self.average is not None:
            looks = self.report.stability.looks
            begins = [look.step for end, look in enumerate(looks, start=1) if went_back(looks[:end])]
            average.load(self.average, self.report.steps - max(begins, default=0))

    def save(self, directory: Path) -> None:
        """Write into `directory`, made where it does not exist; `state.json` last."""
        directory.mkdir(parents=True, exist_ok=True)
        parts: dict[Outcome, dict[str, Tensor] | None] = {
            "last": self.weights,
            "average": self.average,
            "best": self.best,
        }
        for whose, weights in parts.items():
            if weights is not None:
                save_file(weights, directory / WEIGHTS[whose])
        save_file(self.optimizer, directory / _OPTIMIZER)
        (directory / _REPORT).write_text(json.dumps(self.report.to_json(), indent=1) + "\n")

    @staticmethod
    def load(directory: Path) -> TrainState:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: A file is missing.
        """
        return TrainState(
            report=EpochReport.from_json(json.loads((directory / _REPORT).read_text())),
            weights=load_file(directory / WEIGHTS["last"]),
            optimizer=load_file(directory / _OPTIMIZER),
            average=_load_where_it_is(directory / WEIGHTS["average"]),
            best=_load_where_it_is(directory / WEIGHTS["best"]),
        )


def _load_where_it_is(path: Path) -> dict[str, Tensor] | None:
    return load_file(path) if path.exists() else None


def _copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(tensor) for name, tensor in weights.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()

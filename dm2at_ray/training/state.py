"""A training between two epochs, on disk as safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dm2at_ray.training.report import EpochReport

_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_REPORT = "state.json"


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

    @staticmethod
    def capture(model: nn.Module, optimizer: torch.optim.Optimizer, report: EpochReport) -> TrainState:
        """Copy the state of the bare model and its optimizer."""
        return TrainState(
            report=report,
            weights={name: _copy(tensor) for name, tensor in model.state_dict().items()},
            optimizer={
                f"{index}.{name}": _copy(tensor)
                for index, values in optimizer.state_dict()["state"].items()
                for name, tensor in values.items()
                if tensor is not None
            },
        )

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the bare model and its optimizer, made anew, into this state.

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

    def save(self, directory: Path) -> None:
        """Write into `directory`, made where it does not exist; `state.json` last."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, directory / _WEIGHTS)
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
            weights=load_file(directory / _WEIGHTS),
            optimizer=load_file(directory / _OPTIMIZER),
        )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()

"""The training loop of one worker (Step 8 of Algorithm 2); knows no Ray."""

from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.loop import train
from dm2at_ray.training.report import EpochReport, LossMeans, Stability, TrainResult
from dm2at_ray.training.settings import TrainSettings
from dm2at_ray.training.stability import CollapseError, Look
from dm2at_ray.training.state import TrainState
from dm2at_ray.training.watch import NonFiniteLossError

__all__ = [
    "CollapseError",
    "EpochReport",
    "LabeledSet",
    "Look",
    "LossMeans",
    "NonFiniteLossError",
    "Stability",
    "TrainResult",
    "TrainSettings",
    "TrainState",
    "train",
]

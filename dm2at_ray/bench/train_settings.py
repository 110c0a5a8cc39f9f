"""What a training benchmark is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dm2at_ray.bench.checks import check_above_zero, check_at_least, check_device, check_names
from dm2at_ray.bench.machine import cores
from dm2at_ray.training import TrainSettings

PRECISIONS = ("float32", "bf16")

LEARNING_RATE = 0.01
"""Small enough that no loop diverges: a NaN may be computed faster or slower than a number."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a device makes of a setting that is left open."""

    model: str
    image_size: int
    channels: int
    batch_size: int
    precision: str


ON_CPU = Speed(model="small_cnn", image_size=28, channels=1, batch_size=128, precision="float32")
ON_GPU = Speed(model="resnet18", image_size=32, channels=3, batch_size=512, precision="bf16")


@dataclass(frozen=True, kw_only=True)
class TrainBenchSettings:
    """The work of `dm2at bench train`; None leaves a field to the device: ON_CPU or ON_GPU.

    Raises:
        ConfigError: a value is out of range, or the device is not there.
    """

    model: str | None = None
    """A model's name as in the config of a run."""

    image_size: int | None = None
    """Height and width in pixels, to which the images are scaled."""

    channels: int | None = None
    """Channels of an image: the gray one, so many times."""

    batch_size: int | None = None
    """Samples of a step."""

    precision: str | None = None
    """Of clean training and of ours: `float32` or `bf16`. The textbook loop is float32."""

    compile: bool = False
    """Whether clean training and ours go through torch.compile; the textbook loop does not."""

    defaults: bool = False
    """Whether ours with the package's default attack and passes is timed, too."""

    seconds: float = 0.5
    """Of one turn of one loop: short, so that a burst of other work does not hit one loop alone."""

    turns: int = 25
    """Turns of every loop, of which the median counts."""

    device: str = "cpu"
    """Where to train."""

    threads: int = 0
    """CPU threads; 0: as many as there are cores."""

    images: Path | None = None
    """Folder of Fashion-MNIST's four IDX files."""

    seed: int = 0
    """Of weights and order."""

    def __post_init__(self) -> None:
        for name, smallest in (
            ("image_size", 1),
            ("channels", 1),
            ("batch_size", 2),
            ("turns", 1),
            ("threads", 0),
            ("seed", 0),
        ):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), smallest)
        check_above_zero("seconds", self.seconds)
        if self.precision is not None:
            check_names("precision", [self.precision], PRECISIONS)
        check_device(self.device)

    def speed(self) -> Speed:
        """Return what was chosen, and what the device chooses for the rest."""
        usual = ON_GPU if torch.device(self.device).type == "cuda" else ON_CPU
        chosen: dict[str, Any] = {
            name: value if getattr(self, name) is None else getattr(self, name)
            for name, value in vars(usual).items()
        }
        return Speed(**chosen)

    def thread_count(self) -> int:
        """Return the CPU threads."""
        return self.threads or cores()

    def training(self) -> TrainSettings:
        """Return the settings of ours with the textbook's attack, in two passes each way."""
        return TrainSettings(
            adversaries="fresh",
            attack="fgsm",
            attack_label="true",
            attack_mode="train",
            passes="shared",
            **self._common(),
        )

    def default_training(self) -> TrainSettings:
        """Return the settings of ours where nobody chose an attack."""
        return TrainSettings(**self._common())

    def _common(self) -> dict[str, Any]:
        speed = self.speed()
        return {
            "batch_size": speed.batch_size,
            "precision": speed.precision,
            "compile": self.compile,
            "schedule": "constant",
            "learning_rate": LEARNING_RATE,
        }

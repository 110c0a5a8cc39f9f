"""What a comparison of robust trainings is asked to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dm2at_ray.bench.checks import check_above_zero, check_at_least, check_device
from dm2at_ray.bench.machine import cores
from dm2at_ray.bench.recipes import COMPARED, recipe_named
from dm2at_ray.bench.trial import Trial
from dm2at_ray.errors import ConfigError
from dm2at_ray.training import TrainSettings


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings:
    """The work of `dm2at bench robustness`.

    Raises:
        ConfigError: a value is out of range, a recipe is unknown, or the device is not there.
    """

    recipes: Sequence[str] = COMPARED
    """Trainings to compare, by name."""

    seeds: Sequence[int] = (0, 1, 2)
    """One training of each recipe for each: another labeled set, other weights, another order."""

    model: str = "small_cnn"
    """A model's name as in the config of a run."""

    labels: int = 10_000
    """Training images, drawn by the seed."""

    test: int | None = None
    """The first so many test images are evaluated on; None takes them all."""

    pgd_steps: int = 20
    """Steps of PGD in the evaluation."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainSettings that differ from what a run takes; a recipe's own changes come after them."""

    device: str = "cpu"
    """Where to train and evaluate."""

    threads: int = 0
    """CPU threads of each training; 0: as many as the cores give to each of those that run at once."""

    jobs: int = 1
    """Trainings at once."""

    limit: float | None = None
    """Seconds after which no more trainings begin; None: all of them are made."""

    images: Path | None = None
    """Folder of Fashion-MNIST's four IDX files."""

    out: Path | None = None
    """File of JSON lines that each row is added to; rows that it holds already are not made again."""

    def __post_init__(self) -> None:
        for name, smallest in (("labels", 1), ("pgd_steps", 1), ("threads", 0), ("jobs", 1)):
            check_at_least(name, getattr(self, name), smallest)
        if self.test is not None:
            check_at_least("test", self.test, 1)
        if self.limit is not None:
            check_above_zero("limit", self.limit)
        if not self.seeds:
            raise ConfigError("seeds=0 must be at least 1")
        for seed in self.seeds:
            check_at_least("seed", seed, 0)
        for name, values in (("recipe", self.recipes), ("seed", self.seeds)):
            twice = next((value for value in values if list(values).count(value) > 1), None)
            if twice is not None:
                raise ConfigError(f"{name}={twice!r} is given twice; leave one out")
        known = [each.name for each in dataclasses.fields(TrainSettings)]
        for name in self.training:
            if name not in known:
                raise ConfigError(f"set={name!r} is unknown; use one of: {', '.join(known)}")
        for recipe in self.recipes:
            self.training_of(recipe)
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise ConfigError(f"out={self.out}: no such folder; make it first")
        check_device(self.device)

    def training_of(self, recipe: str) -> TrainSettings:
        """Return the settings of a recipe's training."""
        try:
            return TrainSettings(**{**self.training, **recipe_named(recipe).changes})
        except TypeError as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.training.items())
            raise ConfigError(f"set: one of {given} is of the wrong type ({error})") from error

    def thread_count(self) -> int:
        """Return the CPU threads of one training."""
        return self.threads or max(1, cores() // self.jobs)

    def trials(self) -> list[Trial]:
        """Return all trials, recipe after recipe."""
        return [
            Trial(
                recipe=recipe,
                seed=seed,
                training=dataclasses.asdict(self.training_of(recipe)),
                model=self.model,
                labels=self.labels,
                test=self.test,
                pgd_steps=self.pgd_steps,
                device=self.device,
            )
            for recipe in self.recipes
            for seed in self.seeds
        ]

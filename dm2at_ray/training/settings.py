"""What can be chosen about a training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from dm2at_ray.errors import ConfigError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Adversaries = Literal["stored", "fresh", "both"]
Attack = Literal["fgsm", "rs_fgsm", "n_fgsm", "pgd"]
AttackLabel = Literal["true", "predicted"]
Augment = Literal["none", "shift", "flip_shift"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of Step 8 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025).

    Raises:
        ConfigError: A value is out of range or none of the known names.

    Examples:
        >>> TrainSettings(epochs=20, min_steps=300, batch_size=50).epochs_for(100)
        150
    """

    epochs: int = 40
    """Passes over the labeled set."""

    min_steps: int = 400
    """At least this many optimizer steps: a small labeled set gets more epochs, so that the first rounds of a
    run are trained to convergence too. 0 takes `epochs` as it stands."""

    batch_size: int = 64
    """Samples of one optimizer step, over all workers together. An epoch is cut into the fewest batches of at
    most this size, all of the same size but for one sample."""

    learning_rate: float = 0.1
    """Peak of the schedule."""

    momentum: float = 0.9
    """Of SGD (Nesterov); AdamW keeps its betas of 0.9 and 0.999."""

    weight_decay: float = 5e-4
    """L2 penalty of SGD, decoupled decay of AdamW; on every trained parameter."""

    optimizer: Optimizer = "sgd"
    """`sgd` with Nesterov momentum, or `adamw` (with a learning rate about 30 times smaller)."""

    schedule: Schedule = "one_cycle"
    """`one_cycle`: up over the first 30 % of the steps, then down to nothing; `cosine`: down from the peak;
    `constant`."""

    clean_weight: float = 0.5
    """λ: the clean loss counts λ and the adversarial one 1 - λ. 1 trains on clean images only, 0 on
    adversarial ones only."""

    adversaries: Adversaries = "fresh"
    """`stored`: the twins crafted in Step 5, as they are (a sample without one counts its clean loss in
    full); `fresh`: made in every step against the current model; `both`, each counting half."""

    attack: Attack = "rs_fgsm"
    """How fresh adversaries are made: `fgsm`; `rs_fgsm`, one step of 1.25 ε from a random start (Wong et al.,
    arXiv 2001.03994); `n_fgsm`, one step of ε from a start up to 2 ε away, not projected back (de Jorge et
    al., arXiv 2202.01181); `pgd`, `attack_steps` steps of 2.5 ε / `attack_steps` from a random start."""

    attack_steps: int = 7
    """Steps of `pgd`."""

    epsilon: float = 8 / 255
    """Radius of the L∞ ball of fresh adversaries, pixels being in [0, 1]."""

    attack_label: AttackLabel = "true"
    """The label that fresh adversaries lead away from: `true`, or the one `predicted`, which cannot leak the
    true one."""

    augment: Augment = "none"
    """`shift`: by up to 2 pixels (1 where a side has fewer than 16) in each direction, the edge filled with
    zeros; `flip_shift`: a horizontal flip, too."""

    sync_batch_norm: bool = False
    """Batch norm over the images of all workers rather than each worker's own; on GPUs only, and
    without effect on one worker."""

    checkpoint_every: int = 10
    """Epochs between two checkpoints; the last epoch always makes one."""

    def __post_init__(self) -> None:
        _check(self, "epochs", self.epochs >= 1, "at least 1")
        _check(self, "min_steps", self.min_steps >= 0, "at least 0")
        _check(self, "batch_size", self.batch_size >= 1, "at least 1")
        _check(self, "learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        _check(self, "momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        _check(self, "weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        _check(self, "clean_weight", 0 <= self.clean_weight <= 1, "between 0 and 1")
        _check(self, "attack_steps", self.attack_steps >= 1, "at least 1")
        _check(self, "epsilon", 0 <= self.epsilon <= 1, "between 0 and 1 (pixels are in [0, 1])")
        _check(self, "checkpoint_every", self.checkpoint_every >= 1, "at least 1")
        hints = get_type_hints(TrainSettings)
        for field in fields(self):
            names = get_args(hints[field.name])
            if names:
                _check(self, field.name, getattr(self, field.name) in names, f"one of {', '.join(names)}")

    def epochs_for(self, sample_count: int) -> int:
        """Epochs for a labeled set of `sample_count` samples: `epochs`, or more to reach `min_steps`."""
        steps_per_epoch = -(-sample_count // self.batch_size)
        return max(self.epochs, -(-self.min_steps // steps_per_epoch))


def _check(settings: TrainSettings, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(settings, name)!r}: must be {rule}")

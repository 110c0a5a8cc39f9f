"""What can be chosen about a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from dm2at_ray.errors import ConfigError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "cosine", "constant"]
Adversaries = Literal["stored", "fresh", "both"]
Attack = Literal["fgsm", "rs_fgsm", "n_fgsm", "pgd"]
AttackLabel = Literal["true", "predicted"]
Augment = Literal["none", "shift", "flip_shift"]
Passes = Literal["joint", "two", "shared"]
Mode = Literal["eval", "train"]
Precision = Literal["float32", "bf16"]
OnCollapse = Literal["warn", "restore_best", "switch_attack", "fail"]


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

    attack: Attack = "n_fgsm"
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

    attack_mode: Mode = "eval"
    """Mode of the model while fresh adversaries are made: in `eval` they meet the statistics of batch norm
    that the model will be used with."""

    passes: Passes = "joint"
    """`joint`: clean and adversarial images in one forward pass, under the same statistics of batch norm;
    `two`: each half in its own, as in the paper; `shared`: in two, where the clean half's backward pass also
    gives the input gradient (2 forward and 2 backward passes in place of 3 and 3), for fresh adversaries by
    `fgsm` in `train` mode towards the `true` label."""

    epsilon_warmup: float = 0.0
    """Share of the steps in which epsilon rises from 0, linearly."""

    grad_align: float = 0.0
    """Weight of GradAlign (Andriushchenko & Flammarion, arXiv 2007.02617), which keeps single-step
    adversaries from collapsing; 0 leaves it out."""

    augment: Augment = "none"
    """`shift`: by up to 2 pixels (1 where a side has fewer than 16) in each direction, the edge filled with
    zeros; `flip_shift`: a horizontal flip, too."""

    sync_batch_norm: bool = False
    """Batch norm over the images of all workers rather than each worker's own: then N workers train as one
    would, and a share of one sample is not counted twice to have the two values that batch norm needs."""

    steps: int | None = None
    """Exactly so many optimizer steps (the last epoch is cut short), in place of `epochs` and `min_steps`."""

    ema: float = 0.0
    """Decay per step of the moving average of weights that is kept and used in their place; 0 for none."""

    precision: Precision = "float32"
    """`bf16`: forward passes under autocast; weights, losses and the optimizer stay in float32."""

    compile: bool = False
    """Whether the model goes through torch.compile."""

    validation: int = 256
    """Labels held out of the training, about so many and about a tenth of them at most, that each look
    measures clean, FGSM and PGD accuracy on. None of fewer than 500 labels, too few to tell a collapse from
    chance, nor in a training on clean images that `early_stop` does not end: there, as with 0, nothing
    watches the training."""

    on_collapse: OnCollapse = "restore_best"
    """What follows catastrophic overfitting (FGSM accuracy up, PGD accuracy down by more than 0.2) or
    inversion (adversarial accuracy above clean): `warn`; `restore_best` takes the weights with the best PGD
    accuracy; `switch_attack` goes on from them with N-FGSM; `fail`."""

    early_stop: int | None = None
    """Stop after so many looks without a better PGD accuracy on the validation part, at its best weights."""

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
        _check(
            self, "epsilon_warmup", 0 <= self.epsilon_warmup <= 1, "between 0 and 1 (a share of the steps)"
        )
        _check(self, "grad_align", 0 <= self.grad_align < math.inf, "at least 0")
        _check(self, "steps", self.steps is None or self.steps >= 1, "at least 1, or none")
        _check(self, "ema", 0 <= self.ema < 1, "at least 0 and below 1")
        _check(self, "validation", self.validation >= 0, "at least 0")
        _check(self, "early_stop", self.early_stop is None or self.early_stop >= 1, "at least 1, or none")
        _check(self, "checkpoint_every", self.checkpoint_every >= 1, "at least 1")
        for name, hint in get_type_hints(TrainSettings).items():
            if get_origin(hint) is Literal:
                names = get_args(hint)
                _check(self, name, getattr(self, name) in names, f"one of {', '.join(names)}")
        _check_together(self)

    def steps_for(self, sample_count: int) -> int:
        """Optimizer steps for a labeled set of `sample_count` samples.

        Examples:
            >>> TrainSettings(epochs=20, min_steps=300, batch_size=50).steps_for(101)
            300
        """
        if self.steps is not None:
            return self.steps
        per_epoch = self._steps_per_epoch(sample_count)
        return max(self.epochs, -(-self.min_steps // per_epoch)) * per_epoch

    def epochs_for(self, sample_count: int) -> int:
        """Epochs for a labeled set of `sample_count` samples, the last one perhaps cut short by `steps`."""
        return -(-self.steps_for(sample_count) // self._steps_per_epoch(sample_count))

    def epsilon_at(self, step: int, total_steps: int) -> float:
        """Epsilon of step `step` (from 0) of `total_steps`.

        Examples:
            >>> [TrainSettings(epsilon=0.5, epsilon_warmup=0.5).epsilon_at(step, 8) for step in (0, 1, 4, 7)]
            [0.0, 0.125, 0.5, 0.5]
        """
        rising_steps = self.epsilon_warmup * total_steps
        return self.epsilon * step / rising_steps if step < rising_steps else self.epsilon

    def _steps_per_epoch(self, sample_count: int) -> int:
        return -(-sample_count // self.batch_size)


def _check(settings: TrainSettings, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {getattr(settings, name)!r}: must be {rule}")


_SHARED_NEEDS = {"adversaries": "fresh", "attack": "fgsm", "attack_mode": "train", "attack_label": "true"}
"""With these the gradient that leads to the adversary is one of the loss that the clean half trains on."""


def _check_together(settings: TrainSettings) -> None:
    """Settings that do not go with each other."""
    if settings.passes == "shared":
        for name, needed in _SHARED_NEEDS.items():
            value = getattr(settings, name)
            if value != needed:
                raise ConfigError(
                    f"{name} is {value!r}: must be {needed} where passes is 'shared'; or set passes to two"
                )
    if settings.compile and settings.grad_align > 0:
        raise ConfigError(
            f"grad_align is {settings.grad_align!r}: must be 0 where compile is true, since torch.compile "
            "cannot differentiate twice; or set compile to false"
        )
    if settings.early_stop is not None and settings.validation == 0:
        raise ConfigError(
            f"early_stop is {settings.early_stop!r}: must be none where validation is 0; "
            "or set validation to 256"
        )

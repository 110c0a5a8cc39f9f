"""One training of a comparison, as a run would train, and what the evaluation of a run says about it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dm2at_ray.algorithm.attacks import fgsm, pgd, random_start
from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.bench.images import LabeledImages
from dm2at_ray.errors import UserError
from dm2at_ray.models import ModelSpec
from dm2at_ray.stages.held_out import HeldOut
from dm2at_ray.stages.tally import Tally
from dm2at_ray.training import EpochReport, LabeledSet, TrainSettings, TrainState, train

PGD_REACH = 2.5
"""Steps of PGD together as a multiple of epsilon, as where a run's config sets no step size."""

EVALUATED_AT_ONCE = 500

Accuracy = dict[str, float]
"""Attack (clean, fgsm, pgd) -> share of the test images that are answered rightly."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: plain values that travel in JSON.

    Attributes:
        recipe: its name.
        seed: of the labeled set, the weights, the order and all draws.
        training: fields of TrainSettings.
        model: name of the model.
        labels: training images, drawn by the seed.
        test: the first so many test images are evaluated on; None takes them all.
        pgd_steps: steps of PGD in the evaluation.
        device: where to work.
    """

    recipe: str
    seed: int
    training: dict[str, Any]
    model: str
    labels: int
    test: int | None
    pgd_steps: int
    device: str


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """What a trial found; None, or nothing, where it failed.

    Attributes:
        recipe: its name.
        seed: of the trial.
        clean: accuracy on the test images.
        fgsm: accuracy under FGSM.
        pgd: accuracy under PGD.
        intervals: Wilson's 95 % interval of each.
        seconds: of the training, its looks included.
        evaluation_seconds: of the evaluation.
        epochs: that were trained.
        steps: optimizer steps.
        held_out: labels that were not trained on, but looked at.
        looks: of the stability watch: epoch, clean, fgsm, pgd, collapse, answer...
        outcome: whose weights are the result: the last ones, their average, or the best look's.
        stopped: whether the training stopped early.
        attack: that the training ended with.
        last: accuracy of the last weights where the result are the best: had nobody watched.
        error: why there are no figures.
        settings: all that the figures depend on.
    """

    recipe: str
    seed: int
    clean: float | None = None
    fgsm: float | None = None
    pgd: float | None = None
    intervals: dict[str, list[float]] = field(default_factory=dict)
    seconds: float | None = None
    evaluation_seconds: float | None = None
    epochs: int | None = None
    steps: int | None = None
    held_out: int | None = None
    looks: list[dict[str, Any]] = field(default_factory=list)
    outcome: str | None = None
    stopped: bool | None = None
    attack: str | None = None
    last: Accuracy | None = None
    error: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def run_trial(trial: Trial, train_images: LabeledImages, test_images: LabeledImages) -> TrialRow:
    """Train and evaluate.

    Args:
        trial: what to do.
        train_images: the labeled set is drawn of.
        test_images: what the trained model is measured on.

    Returns:
        Its figures; of a training that could not be brought to an end, the error.
    """
    device, settings = torch.device(trial.device), TrainSettings(**trial.training)
    labeled, held_out = labeled_set(train_images, trial), _held_out(test_images, trial, device)
    spec = ModelSpec(trial.model, train_images.classes, 1, labeled.images.shape[1])
    last_weights: dict[str, Tensor] = {}

    def keep_last(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        if report.is_last and report.stability.outcome == "best":
            last_weights.update(make_state().weights)

    try:
        model = spec.build(seed=trial.seed)
        result = train(
            model, labeled, settings, seed=trial.seed, round_index=0, device=device, on_epoch=keep_last
        )
    except UserError as error:
        return TrialRow(recipe=trial.recipe, seed=trial.seed, error=str(error))
    began = time.perf_counter()
    measured = evaluate(model, held_out, trial, settings.epsilon, train_images.classes)
    last = None
    if last_weights:
        model.load_state_dict(last_weights)
        last = evaluate(model, held_out, trial, settings.epsilon, train_images.classes)["accuracy"]
    stability = result.stability
    return TrialRow(
        recipe=trial.recipe,
        seed=trial.seed,
        **measured["accuracy"],
        intervals=measured["accuracy_interval"],
        seconds=result.seconds,
        evaluation_seconds=time.perf_counter() - began,
        epochs=result.epochs,
        steps=result.steps,
        held_out=stability.held_out,
        looks=[dataclasses.asdict(look) for look in stability.looks],
        outcome=stability.outcome,
        stopped=stability.stopped_early,
        attack=stability.attack,
        last=last,
    )


def labeled_set(images: LabeledImages, trial: Trial) -> LabeledSet:
    """Draw the labels of a trial: the same for each recipe, others for each seed."""
    ids = np.arange(len(images.labels), dtype=np.int64)
    draws = uniform(trial.seed, 0, Stream.INITIAL, ids, 1)[:, 0]
    taken = np.sort(np.argsort(draws, kind="stable")[: trial.labels])
    pixels = images.pixels[torch.from_numpy(taken)].numpy()
    return LabeledSet(taken, pixels[..., None], images.labels[taken].astype(np.int64))


def evaluate(
    model: nn.Module, held_out: HeldOut, trial: Trial, epsilon: float, classes: int
) -> dict[str, Any]:
    """Measure clean, FGSM and PGD accuracy as the evaluation of a run's round 0 does.

    Args:
        model: in eval mode.
        held_out: the test images.
        trial: says the seed and the steps of PGD.
        epsilon: radius of both attacks.
        classes: of the images.

    Returns:
        `Tally.accuracies`.
    """

    def by_fgsm(_: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        return fgsm(model, x, y, epsilon)

    def by_pgd(ids: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
        draws = uniform(trial.seed, 0, Stream.ATTACK, ids, x[0].numel())
        start = random_start(x, epsilon, torch.from_numpy(draws))
        step_size = PGD_REACH * epsilon / trial.pgd_steps
        return pgd(model, x, y, epsilon, steps=trial.pgd_steps, step_size=step_size, start=start)

    right = partial(held_out.right, model)
    hits = {"clean": right(lambda _ids, x, _y: x), "fgsm": right(by_fgsm), "pgd": right(by_pgd)}
    return Tally.of(held_out.labels, hits, classes).accuracies()


def _held_out(images: LabeledImages, trial: Trial, device: torch.device) -> HeldOut:
    pixels = images.pixels[: trial.test].numpy()[..., None]
    labels = images.labels[: trial.test].astype(np.int64)
    return HeldOut(np.arange(len(labels)), pixels, labels, min(EVALUATED_AT_ONCE, len(labels)), device)

"""The comparison of robust trainings: trials, those done already, and the report."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch

from dm2at_ray import __version__
from dm2at_ray.bench.crew import run_in_processes
from dm2at_ray.bench.images import LabeledImages, load_split_images
from dm2at_ray.bench.machine import machine_facts
from dm2at_ray.bench.robustness_report import RobustnessReport, summarize
from dm2at_ray.bench.robustness_settings import RobustnessSettings
from dm2at_ray.bench.trial import Trial, TrialRow, run_trial
from dm2at_ray.bench.trial_rows import add_row, read_rows
from dm2at_ray.errors import ConfigError
from dm2at_ray.models import ModelSpec
from dm2at_ray.training import TrainSettings
from dm2at_ray.training.validation import passes_of_a_sample

OnRow = Callable[[TrialRow], None]

PLACES = ("images", "out")
"""Settings that name a place on this machine."""


def robustness_study(settings: RobustnessSettings, on_row: OnRow) -> RobustnessReport:
    """Train each recipe with each seed, and evaluate.

    Args:
        settings: what to do.
        on_row: told of each row as soon as it is there, not of those that were there before.

    Raises:
        ConfigError: there are fewer images than asked for.
        ModelError: no model has this name, or it does not take the images.
        PoolError: images cannot be read.
        RunError: `settings.out` holds something else than rows.
    """
    torch.set_num_threads(settings.thread_count())
    images = load_split_images(settings.images)
    for name, there in zip(("labels", "test"), images, strict=True):
        if (getattr(settings, name) or 0) > len(there.labels):
            raise ConfigError(
                f"{name}={getattr(settings, name)}: {there.name} has {len(there.labels)}; ask for no more"
            )
    # Refused here, an unknown model is one line and not a row for each training.
    ModelSpec(settings.model, images[0].classes, 1, images[0].pixels.shape[1]).build(seed=0)
    trials = settings.trials()
    known = all_settings(trials, images)
    rows: list[TrialRow | None] = [None] * len(trials)
    for row in read_rows(settings.out):
        if row.error is None and row.settings in known:
            rows[known.index(row.settings)] = row
    left = [trial for trial, row in zip(trials, rows, strict=True) if row is None]
    begun = itertools.takewhile(_within(settings.limit), in_order(left))
    with closing(_run(begun, settings, images)) as done:
        for trial, found in done:
            place = trials.index(trial)
            row = dataclasses.replace(found, settings=known[place])
            rows[place] = row
            add_row(settings.out, row)
            on_row(row)
    found_rows = [row for row in rows if row is not None]
    return RobustnessReport(
        settings={
            **{name: value for name, value in dataclasses.asdict(settings).items() if name not in PLACES},
            "threads": settings.thread_count(),
            "training": dict(settings.training),
            "images": images[0].name,
        },
        machine=machine_facts(torch.device(settings.device)),
        rows=found_rows,
        summary=summarize(found_rows),
        left=rows.count(None),
    )


def _within(limit: float | None) -> Callable[[object], bool]:
    """Whether less than so many seconds have gone by since now."""
    end = math.inf if limit is None else time.monotonic() + limit
    return lambda _: time.monotonic() < end


def in_order(trials: Sequence[Trial]) -> list[Trial]:
    """Seed after seed, and the longest first, so that the end does not wait for a single long one."""
    return sorted(
        trials, key=lambda trial: (trial.seed, -passes_of_a_sample(TrainSettings(**trial.training)))
    )


def all_settings(
    trials: Sequence[Trial], images: tuple[LabeledImages, LabeledImages]
) -> list[dict[str, Any]]:
    """All that the figures of each trial depend on, as it is after a way through JSON."""
    common = {
        "images": images[0].name,
        "crc32": [zlib.crc32(each.pixels.numpy().tobytes()) for each in images],
        "version": __version__,
    }
    return [
        json.loads(
            json.dumps({**dataclasses.asdict(trial), **common, "device": torch.device(trial.device).type})
        )
        for trial in trials
    ]


def _run(
    trials: Iterable[Trial], settings: RobustnessSettings, images: tuple[LabeledImages, LabeledImages]
) -> Generator[tuple[Trial, TrialRow]]:
    if settings.jobs == 1:
        return ((trial, run_trial(trial, *images)) for trial in trials)
    return run_in_processes(
        trials, jobs=settings.jobs, threads=settings.thread_count(), images=settings.images
    )

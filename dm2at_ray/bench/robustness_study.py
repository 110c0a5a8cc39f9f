"""The comparison of robust trainings: trials, those done already, and the report."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from dm2at_ray import __version__
from dm2at_ray.bench.crew import run_in_processes
from dm2at_ray.bench.images import LabeledImages, load_split_images
from dm2at_ray.bench.machine import machine_facts
from dm2at_ray.bench.robustness_report import RobustnessReport, summarize
from dm2at_ray.bench.robustness_settings import RobustnessSettings
from dm2at_ray.bench.trial import Trial, TrialRow, run_trial
from dm2at_ray.errors import ConfigError, RunError
from dm2at_ray.models import ModelSpec
from dm2at_ray.training import TrainSettings
from dm2at_ray.training.validation import passes_of_a_sample

OnRow = Callable[[TrialRow], None]


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
    known = [all_settings(trial, images) for trial in trials]
    rows: list[TrialRow | None] = [None] * len(trials)
    for row in rows_of(settings.out):
        if row.error is None and row.settings in known:
            rows[known.index(row.settings)] = row
    left = [trial for trial, row in zip(trials, rows, strict=True) if row is None]
    with closing(_run(in_order(left), settings, images)) as done:
        for trial, found in done:
            place = trials.index(trial)
            row = dataclasses.replace(found, settings=known[place])
            rows[place] = row
            _add(settings.out, row)
            on_row(row)
    found_rows = [row for row in rows if row is not None]
    return RobustnessReport(
        settings={
            **{name: value for name, value in dataclasses.asdict(settings).items() if name not in _PLACES},
            "threads": settings.thread_count(),
            "training": dict(settings.training),
            "images": images[0].name,
        },
        machine=machine_facts(torch.device(settings.device)),
        rows=found_rows,
        summary=summarize(found_rows),
    )


_PLACES = ("images", "out")
"""Settings that name a place on this machine."""


def in_order(trials: Sequence[Trial]) -> list[Trial]:
    """Seed after seed, and the longest first, so that the end does not wait for a single long one."""
    return sorted(
        trials, key=lambda trial: (trial.seed, -passes_of_a_sample(TrainSettings(**trial.training)))
    )


def all_settings(trial: Trial, images: tuple[LabeledImages, LabeledImages]) -> dict[str, Any]:
    """All that a trial's figures depend on, as it is after a way through JSON."""
    device = {"device": torch.device(trial.device).type}
    pixels = {
        f"{name}_crc32": zlib.crc32(each.pixels.numpy().tobytes())
        for name, each in zip(("train", "test"), images, strict=True)
    }
    whole = {
        **dataclasses.asdict(trial),
        **device,
        "images": images[0].name,
        **pixels,
        "version": __version__,
    }
    return dict(json.loads(json.dumps(whole)))


def rows_of(path: Path | None) -> list[TrialRow]:
    """Read the rows of a file; none of one that is not there. Half a line at the end was cut off: it is left.

    Raises:
        RunError: a line is not a row.
    """
    if path is None or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(TrialRow(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"out={path}: line {number} is no row of this command; name another file"
            ) from error
    return rows


def _add(path: Path | None, row: TrialRow) -> None:
    if path is None:
        return
    whole = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if path.exists() else "wb") as file:
        # What follows the last whole line was cut off.
        file.truncate(whole.rfind(b"\n") + 1)
        file.seek(0, 2)
        file.write(row_line(row).encode() + b"\n")


def row_line(row: TrialRow) -> str:
    """A row as one line of JSON."""
    return json.dumps(dataclasses.asdict(row), allow_nan=False)


def _run(
    trials: Sequence[Trial], settings: RobustnessSettings, images: tuple[LabeledImages, LabeledImages]
) -> Generator[tuple[Trial, TrialRow]]:
    if settings.jobs == 1:
        return ((trial, run_trial(trial, *images)) for trial in trials)
    return run_in_processes(
        trials, jobs=settings.jobs, threads=settings.thread_count(), images=settings.images
    )

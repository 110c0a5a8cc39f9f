"""`dm2at bench robustness`: its options, and what it prints.

By argparse and not by typer, which imports pydantic: `python -m dm2at_ray.bench.robustness` takes the same
options on a GPU machine that has neither pydantic nor Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from dm2at_ray.bench.process import ended_by_sigterm
from dm2at_ray.bench.recipes import ANSWERS, COMPARED, RECIPES
from dm2at_ray.bench.robustness_report import robustness_notes, summary_table
from dm2at_ray.bench.robustness_settings import RobustnessSettings
from dm2at_ray.bench.robustness_study import robustness_study
from dm2at_ray.bench.trial_rows import row_line
from dm2at_ray.errors import ConfigError, UserError
from dm2at_ray.training import TrainSettings

DESCRIPTION = """\
Train a model with several recipes and seeds, as a run trains it, and measure each under FGSM and PGD: which
recipe comes near PGD training, and what becomes of plain FGSM. A row of JSON goes to stderr as soon as it is
there."""

TRAINING_OPTIONS = ("epochs", "batch_size", "precision", "epsilon", "clean_weight")
"""Fields of TrainSettings that have an option of their own."""


def main(arguments: Sequence[str]) -> int:
    """Run the comparison and print what it found.

    Args:
        arguments: as on the command line, without the command.

    Returns:
        Exit code: 0, or 1 where a training failed.

    Raises:
        UserError: an option is out of range, or model, images or file cannot be used.
        SystemExit: arguments that are no options of this command, or --help.
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    settings = RobustnessSettings(**_settings(options))
    with ended_by_sigterm():
        report = robustness_study(
            settings, on_row=lambda row: print(row_line(row), file=sys.stderr, flush=True)
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False))
    else:
        Console().print(summary_table(report))
        for line in robustness_notes(report):
            print(line)
    return int(any(row.error for row in report.rows))


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of RobustnessSettings from the options that were given."""
    count = options.pop("seed_count", None)
    if count is not None:
        if "seeds" in options:
            raise ConfigError(f"seeds={count} has no effect with --seed; leave one out")
        options["seeds"] = tuple(range(count))
    changes = dict(options.pop("changes", ()))
    named = {name: options.pop(name) for name in TRAINING_OPTIONS if name in options}
    return {**options, "training": {**changes, **named}}


def _parser() -> argparse.ArgumentParser:
    """Options named as the fields of the settings; what is not given is left out: their defaults hold."""
    parser = argparse.ArgumentParser(
        prog="dm2at bench robustness",
        description=DESCRIPTION,
        epilog="recipes: " + "; ".join(f"{name}: {recipe.explanation}" for name, recipe in RECIPES.items()),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add, usual = parser.add_argument, TrainSettings()
    add(
        "--recipe",
        dest="recipes",
        action="append",
        metavar="NAME",
        help=f"a training; several times for several ({', '.join(COMPARED)}); with "
        f"{', '.join(f'_{ending}' for ending in ANSWERS)} behind it, how it answers a collapse",
    )
    add("--seeds", dest="seed_count", type=int, metavar="N", help="seeds 0 to N - 1 (3)")
    add("--seed", dest="seeds", action="append", type=int, metavar="SEED", help="this seed; several times")
    add("--model", metavar="NAME", help="small_cnn, resnet18, ... (small_cnn)")
    add("--labels", type=int, metavar="N", help="training images, drawn by the seed (10,000)")
    add("--test", type=int, metavar="N", help="the first N test images only (all)")
    add("--pgd-steps", type=int, metavar="K", help="steps of PGD in the evaluation (20)")
    add("--epochs", type=int, metavar="N", help=f"of each training ({usual.epochs})")
    add("--batch-size", type=int, metavar="N", help=f"samples of a step ({usual.batch_size})")
    add("--epsilon", type=_fraction, metavar="E", help="radius of all attacks (8/255)")
    add("--clean-weight", type=float, metavar="L", help=f"of the clean loss ({usual.clean_weight})")
    add("--precision", metavar="NAME", help=f"of the training: float32, bf16 ({usual.precision})")
    add(
        "--set",
        dest="changes",
        action="append",
        type=_change,
        metavar="FIELD=VALUE",
        help="a field of the config's section `training`, for every recipe; several times",
    )
    add("--device", metavar="DEVICE", help="where to train and evaluate: cpu, cuda (cpu)")
    add("--threads", type=int, metavar="T", help="CPU threads of each training (cores / jobs)")
    add("--jobs", type=int, metavar="N", help="trainings at once, each in a process of its own (1)")
    add("--limit", type=float, metavar="SECONDS", help="begin no more trainings after so long (none)")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of Fashion-MNIST's four IDX files (where the system has them, else digits are taken)",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="add each row to this file of JSON lines, and make none again that it holds",
    )
    add("--json", dest="as_json", action="store_true", default=False, help="print one JSON object")
    return parser


def _fraction(text: str) -> float:
    """8/255 as people write epsilon, or 0.03."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _change(text: str) -> tuple[str, Any]:
    """A field and its value, which is JSON or else a name."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

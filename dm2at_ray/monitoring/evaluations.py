"""What `dm2at evaluate` found, as tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dm2at_ray.monitoring.names import attack_name
from dm2at_ray.monitoring.quantities import NOTHING, percent, percent_range
from dm2at_ray.monitoring.tables import plain_table

CLASSES_SHOWN = 30

Evaluation = Mapping[str, Any]
"""What one file of `rounds/NNNN/evaluations` says."""


def evaluation_tables(evaluations: Sequence[Evaluation]) -> list[RenderableType]:
    """A table with a row for each attack, and one with a row for each class.

    Of more than 30 classes those are shown that do worst under the last attack, worst first.
    """
    found, hardest = evaluations[0], evaluations[-1]["accuracy_by_class"]
    classes = [index for index, images in enumerate(found["images_by_class"]) if images]
    title = "% right by class (95 % interval)"
    if len(classes) > CLASSES_SHOWN:
        title += f", the {CLASSES_SHOWN} of {len(classes):,} classes that do worst"
        classes = sorted(classes, key=lambda index: hardest[index])[:CLASSES_SHOWN]
    return [_attacks_table(evaluations), Text(f"\n{title}"), _classes_table(evaluations, classes)]


ATTACK_HEADER = ("attack", "accuracy", "95 % interval", "images", "settings")


def attack_cells(found: Evaluation) -> tuple[str, ...]:
    """What one evaluation says, under ATTACK_HEADER."""
    return (
        attack_name(found["attack"]),
        percent(found["accuracy"]),
        percent_range(found["accuracy_interval"]),
        f"{found['images']:,}",
        _settings_text(found["settings"]),
    )


def _attacks_table(evaluations: Sequence[Evaluation]) -> Table:
    table = plain_table(*ATTACK_HEADER)
    table.columns[-1].justify = "left"
    for found in evaluations:
        table.add_row(*attack_cells(found))
    return table


def _settings_text(settings: Mapping[str, Any]) -> str:
    words = [f"ε {settings['epsilon'] * 255:.3g}/255"] if "epsilon" in settings else []
    words += [f"{settings[name]} {name}" for name in ("steps", "restarts") if name in settings]
    words += [f"{len(settings['attacks'])} attacks"] if "attacks" in settings else []
    return ", ".join(words) or NOTHING


def _classes_table(evaluations: Sequence[Evaluation], classes: Sequence[int]) -> Table:
    table = plain_table("class", "images", *(attack_name(found["attack"]) for found in evaluations))
    table.columns[0].justify = "left"
    names, images = evaluations[0]["class_names"], evaluations[0]["images_by_class"]
    for index in classes:
        cells = [_class_text(found, index) for found in evaluations]
        table.add_row(names[index], f"{images[index]:,}", *cells)
    return table


def _class_text(found: Evaluation, index: int) -> str:
    accuracy, interval = found["accuracy_by_class"][index], found["accuracy_interval_by_class"][index]
    low, high = (f"{100 * end:.0f}" for end in interval)
    return f"{100 * accuracy:.1f} ({low}{NOTHING}{high})"

"""What `dm2at predict` found, as a table and a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from dm2at_ray.monitoring.quantities import percent, percent_range
from dm2at_ray.monitoring.tables import plain_table

CLASSES_SHOWN = 30


def prediction_lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each finding besides the classes: the accuracy, and what is wrong with the images."""
    lines = [_accuracy_line(found, name) for name in found["accuracy"]] if found["labeled"] else []
    foreign, rejected = found["listing"]["foreign_labels"], found["rejected"]
    if foreign:
        lines.append(f"images whose label is none of the model's classes: {foreign:,}")
    if rejected:
        lines.append(f"images that could not be read: {rejected:,}, such as {found['rejected_example']}")
    return lines


def _accuracy_line(found: Mapping[str, Any], name: str) -> str:
    accuracy, interval = percent(found["accuracy"][name]), percent_range(found["accuracy_interval"][name])
    what = "accuracy" if name == "top1" else f"the label is among the best {name.removeprefix('top')} in"
    return f"{what} {accuracy} ({interval}) of {found['labeled']:,} labeled images"


def predictions_table(found: Mapping[str, Any]) -> Table:
    """The classes, how often each was predicted and how often rightly.

    Of more than 30 classes those are shown that were predicted most.
    """
    counts, labeled = found["predicted_by_class"], found["labeled_by_class"]
    names = found["arguments"]["class_names"]
    shown = sorted(range(len(names)), key=lambda index: -counts[index])[:CLASSES_SHOWN]
    headers = ("class", "predicted") + (("labeled", "right") if found["labeled"] else ())
    table = plain_table(*headers)
    table.columns[0].justify = "left"
    for index in sorted(shown):
        cells = [names[index], f"{counts[index]:,}"]
        if found["labeled"]:
            cells += [f"{labeled[index]:,}", percent(found["accuracy_by_class"][index])]
        table.add_row(*cells)
    return table

"""What `dm2at predict` prints in the end."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from dm2at_ray.monitoring.predictions import prediction_lines, predictions_table
from dm2at_ray.monitoring.quantities import NOTHING


def lines_of(found: dict[str, Any]) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    console.print(predictions_table(found))
    text = console.file.getvalue().replace(NOTHING, "-")  # type: ignore[attr-defined]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert set(lines.pop(1)) == {"\N{BOX DRAWINGS LIGHT HORIZONTAL}"}
    return [*lines, *(line.replace(NOTHING, "-") for line in prediction_lines(found))]


def found(**changes: Any) -> dict[str, Any]:
    return {
        "arguments": {"class_names": ["ape", "cat"]},
        "listing": {"images": 1204, "parts": 1, "foreign_labels": 0},
        "rejected": 0,
        "rejected_example": None,
        "predicted_by_class": [4, 1200],
        "labeled": 0,
        "labeled_by_class": [0, 0],
        "accuracy": {"top1": None},
        "accuracy_interval": {"top1": None},
        "accuracy_by_class": [None, None],
        **changes,
    }


def test_predictions__without_labels() -> None:
    assert lines_of(found()) == ["class predicted", "ape 4", "cat 1,200"]


def test_predictions__with_labels_and_all_that_may_be_wrong() -> None:
    lines = lines_of(
        found(
            listing={"images": 1207, "parts": 1, "foreign_labels": 2},
            rejected=3,
            rejected_example="/images/a.png row 0 (empty file)",
            labeled=1202,
            labeled_by_class=[0, 1202],
            accuracy={"top1": 0.75, "top2": 1.0},
            accuracy_interval={"top1": [0.7, 0.8], "top2": [0.99, 1.0]},
            accuracy_by_class=[None, 0.75],
        )
    )
    assert lines == [
        "class predicted labeled right",
        "ape 4 0 -",
        "cat 1,200 1,202 75.0 %",
        "accuracy 75.0 % (70.0-80.0 %) of 1,202 labeled images",
        "the label is among the best 2 in 100.0 % (99.0-100.0 %) of 1,202 labeled images",
        "images whose label is none of the model's classes: 2",
        "images that could not be read: 3, such as /images/a.png row 0 (empty file)",
    ]


def test_predictions__of_many_classes_those_predicted_most() -> None:
    many = found(
        arguments={"class_names": [f"class{n}" for n in range(40)]},
        predicted_by_class=[0] * 9 + list(range(31)),
        labeled_by_class=[0] * 40,
    )
    shown = lines_of(many)[1:]
    assert [line.split()[0] for line in shown] == [f"class{n}" for n in range(10, 40)]

"""Tables of `dm2at evaluate` as they look where there is no terminal: 80 columns, no colour."""

import io
from typing import Any

from rich.console import Console

from dm2at_ray.monitoring.evaluations import evaluation_tables

SETTINGS: dict[str, dict[str, Any]] = {
    "clean": {},
    "pgd": {"epsilon": 8 / 255, "steps": 20, "step_size": 1 / 255, "restarts": 10},
    "autoattack": {"epsilon": 8 / 255, "attacks": ["apgd-ce", "apgd-t", "fab-t", "square"], "seed": 0},
}


def found(attack: str, accuracies: list[float | None], images: list[int], names: list[str]) -> dict[str, Any]:
    return {
        "attack": attack,
        "settings": SETTINGS[attack],
        "images": sum(images),
        "images_by_class": images,
        "accuracy": 0.5,
        "accuracy_interval": [0.25, 0.75],
        "accuracy_by_class": accuracies,
        "accuracy_interval_by_class": [None if a is None else [a - 0.0625, a + 0.03125] for a in accuracies],
        "class_names": names,
    }


def printed(evaluations: list[dict[str, Any]]) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(*evaluation_tables(evaluations), sep="\n")
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_evaluation_tables__attacks_with_intervals_then_classes() -> None:
    names = ["cat", "dog", "none"]
    evaluations = [
        found("clean", [0.9375, 0.875, None], [3, 1000, 0], names),
        found("pgd", [0.5, 0.0625, None], [3, 1000, 0], names),
    ]
    assert printed(evaluations) == [
        "attack  accuracy  95 % interval  images  settings",
        "───────────────────────────────────────────────────────────────────────",
        " clean    50.0 %    25.0–75.0 %   1,003  –",  # noqa: RUF001
        "   PGD    50.0 %    25.0–75.0 %   1,003  ε 8/255, 20 steps, 10 restarts",  # noqa: RUF001
        "",
        "% right by class (95 % interval)",
        "class  images         clean           PGD",
        "─────────────────────────────────────────",
        "cat         3  93.8 (88–97)  50.0 (44–53)",  # noqa: RUF001
        "dog     1,000  87.5 (81–91)     6.2 (0–9)",  # noqa: RUF001
    ]


def test_evaluation_tables__all_attacks_fit_the_width() -> None:
    names = ["ankle boot"] * 10
    evaluations = [found(attack, [0.96875] * 10, [1000] * 10, names) for attack in ("clean", "pgd")]
    evaluations.append(found("autoattack", [0.96875] * 10, [1000] * 10, names))
    lines = printed([evaluations[0], *evaluations])
    assert lines[5].split()[-4:] == ["ε", "8/255,", "4", "attacks"]
    assert all(line.count("96.9 (91–100)") == 4 for line in lines[-10:])  # noqa: RUF001


def test_evaluation_tables__of_many_classes_the_worst_under_the_last_attack() -> None:
    names = [f"class {index}" for index in range(100)]
    accuracies: list[float | None] = [0.5 + index / 256 for index in range(100)]
    lines = printed(
        [found("clean", accuracies, [10] * 100, names), found("pgd", accuracies[::-1], [10] * 100, names)]
    )
    title = next(index for index, line in enumerate(lines) if line.startswith("% right"))
    assert lines[title] == "% right by class (95 % interval), the 30 of 100 classes that do worst"
    assert [line.split()[1] for line in lines[title + 3 :]] == [str(99 - place) for place in range(30)]

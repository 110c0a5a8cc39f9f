from math import sqrt

import numpy as np
import pytest

from dm2at_ray.stages.tally import Tally, wilson_interval

LABELS = np.array([0, 0, 0, 0, 2, 2])
RIGHT = {"clean": np.array([1, 1, 1, 0, 1, 1], bool), "pgd": np.array([1, 0, 0, 0, 0, 0], bool)}


@pytest.mark.parametrize(("right", "images"), [(0, 1), (3, 4), (95, 100), (344, 344), (7_912, 10_000)])
def test_wilson_interval__is_wilsons_formula(right: int, images: int) -> None:
    z, p = 1.959963984540054, right / images
    middle = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
    assert wilson_interval(right, images) == pytest.approx([middle - half, middle + half], abs=1e-12)


def test_tally__shares_and_intervals_in_all_and_by_class() -> None:
    assert Tally.of(LABELS, RIGHT, num_classes=3).accuracies() == {
        "images": 6,
        "images_by_class": [4, 0, 2],
        "accuracy": {"clean": 5 / 6, "pgd": 1 / 6},
        "accuracy_interval": {"clean": wilson_interval(5, 6), "pgd": wilson_interval(1, 6)},
        "accuracy_by_class": {"clean": [0.75, None, 1.0], "pgd": [0.25, None, 0.0]},
        "accuracy_interval_by_class": {
            "clean": [wilson_interval(3, 4), None, wilson_interval(2, 2)],
            "pgd": [wilson_interval(1, 4), None, wilson_interval(0, 2)],
        },
    }


def test_tally__parts_add_up_to_the_whole_as_tables_too() -> None:
    tally = Tally.empty(3, RIGHT)
    for rows in (slice(0, 2), slice(2, 2), slice(2, 6)):
        part = Tally.of(LABELS[rows], {attack: hits[rows] for attack, hits in RIGHT.items()}, 3)
        tally += Tally.from_table(part.to_table())
    assert tally.accuracies() == Tally.of(LABELS, RIGHT, 3).accuracies()


def test_tally__of_no_images_has_no_accuracy() -> None:
    assert Tally.empty(2, ["clean"]).accuracies()["accuracy"] == {"clean": None}

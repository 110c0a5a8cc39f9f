"""Two rounds of a run as their metrics.json would say, in numbers that add up exactly in binary."""

from typing import Any

import pytest


@pytest.fixture
def rounds() -> list[dict[str, Any]]:
    return [
        {
            "round": 0,
            "labeled": 20,
            "pool": 100,
            "rejected": 1,
            "queried": 20,
            "queries_by_class": [12, 8],
            "accuracy": {"clean": 0.75, "fgsm": 0.5, "pgd": 0.25},
            "accuracy_by_class": {"clean": [0.5, 1.0], "fgsm": [0.5, 0.5], "pgd": [0.25, 0.25]},
            "loss": {"clean": 1.0, "adversarial": 2.0, "total": 1.5},
            "train_accuracy": 1.0,
            "stage_seconds": {"label": 0.25, "train": 8.0, "evaluate": 2.0},
            "stage_images": {"label": 20, "train": 400, "evaluate": 50},
            "query_scores": [],
        },
        {
            "round": 1,
            "labeled": 24,
            "pool": 96,
            "rejected": 1,
            "queried": 4,
            "queries_by_class": [1, 3],
            "accuracy": {"clean": 0.875, "fgsm": 0.625, "pgd": 0.5},
            "accuracy_by_class": {"clean": [0.75, 1.0], "fgsm": [0.75, 0.5], "pgd": [0.5, 0.5]},
            "loss": {"clean": 0.5, "adversarial": 1.0, "total": 0.75},
            "train_accuracy": 0.96875,
            "stage_seconds": {
                "embed": 1.5,
                "neighbors": 0.5,
                "score": 0.5,
                "craft": 0.25,
                "label": 0.25,
                "train": 4.0,
                "evaluate": 2.0,
            },
            "stage_images": {
                "embed": 100,
                "neighbors": 100,
                "score": 100,
                "craft": 4,
                "label": 4,
                "train": 480,
                "evaluate": 50,
            },
            "query_scores": [2.25, 0.625, 0.5, 0.125],
        },
    ]

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.config import Config
from dm2at_ray.round_record import held_out_notices, label_notices, recall_notices
from dm2at_ray.store import RunDirectory


def trained(run: RunDirectory, index: int, held_out: int | None) -> None:
    training: dict[str, Any] = {} if held_out is None else {"stability": {"held_out": held_out}}
    run.round(index).files.write_json("model/model.json", {"training": training})


def test_recall_notices__only_below_the_target() -> None:
    config = Config.from_mapping({"neighbors": {"recall_target": 0.95}})
    (line,) = recall_notices(3, config, {"engine": "routed", "recall": 0.9012})
    assert line.startswith(
        "round 3: the routed neighbour search found 90.12% of the true neighbours, less than"
    )
    for fine in ({"engine": "routed", "recall": 0.95}, {"engine": "exact"}):
        assert list(recall_notices(3, config, fine)) == []


def test_label_notices__new_classes_and_corrections() -> None:
    assert list(label_notices(2, 1, ["cat", "dog", "ape"], 1200)) == [
        "round 2: class dog is new, number 1",
        "round 2: class ape is new, number 2",
        "round 2: 1,200 labels of earlier rounds came or changed since",
    ]
    assert list(label_notices(2, 3, ["cat", "dog", "ape"], 0)) == []


@pytest.mark.parametrize(
    ("before", "now", "early_stop", "told"),
    [
        (0, 12, None, "from now on about a tenth"),
        (12, 14, None, None),
        (None, 12, None, "from now on about a tenth"),
        (None, 0, 3, "no effect yet"),
        (0, 0, 3, None),
        (None, 0, None, None),
    ],
)
def test_held_out_notices__once(
    before: int | None, now: int, early_stop: int | None, told: str | None, tmp_path: Path
) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    trained(run, 0, before)
    config = Config.from_mapping({"training": {"early_stop": early_stop}} if early_stop else {})
    lines = list(held_out_notices(run, 1, config, now))
    assert len(lines) == (told is not None)
    assert all(told in line for line in lines if told)

"""What a run directory knows of its labels and classes, round by round."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from dm2at_ray.errors import RunError
from dm2at_ray.store import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "run"))


def labels(given: dict[int, int | None]) -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array(given.keys(), pa.int64()),
            "label": pa.array(given.values(), pa.int64()),
            "source": ["anna"] * len(given),
            "time": [datetime(2026, 11, 23, tzinfo=timezone.utc)] * len(given),
        }
    )


def known(run: RunDirectory, rounds: int) -> dict[int, int | None]:
    table = run.labels(rounds)
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_labels__later_corrections_count_from_their_round_on(run: RunDirectory) -> None:
    run.round(0).write_labels(labels({5: 1, 3: None, 9: 2}))
    run.round(1).write_labels(labels({7: 0}))
    # One was wrong, one was not told then, one nobody can tell after all, one came late.
    run.round(1).write_corrections(labels({5: 2, 3: 1, 9: None, 8: 4}))
    run.round(2).write_corrections(labels({5: 1}))
    run.round(2).write_labels(labels({2: 2}))
    assert known(run, 0) == {}
    assert known(run, 1) == {5: 1, 3: None, 9: 2}
    assert known(run, 2) == {5: 2, 3: 1, 9: None, 7: 0, 8: 4}
    assert known(run, 3) == {5: 1, 3: 1, 9: None, 7: 0, 8: 4, 2: 2}


def test_labels__of_a_round_without_corrections(run: RunDirectory) -> None:
    run.round(0).write_labels(labels({5: 1}))
    assert not run.round(0).has_corrections
    assert run.labels(1).schema == pa.schema([("sample_id", pa.int64()), ("label", pa.int64())])


def test_class_names__are_only_added_to(run: RunDirectory) -> None:
    assert run.class_names() == []
    run.write_class_names(["cat", "dog"])
    run.write_class_names(["cat", "dog", "frog"])
    assert run.class_names() == ["cat", "dog", "frog"]
    for others in (["dog", "cat", "frog"], ["cat", "dog"], ["cat", "dog", "toad"]):
        with pytest.raises(
            RunError, match=r"its classes are cat, dog, frog, now they are .*; keep the old ones"
        ):
            run.write_class_names(others)
    assert run.class_names() == ["cat", "dog", "frog"]

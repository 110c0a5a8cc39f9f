from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.config import Config
from dm2at_ray.stages.manifest import SplitSummary
from dm2at_ray.standing import Standing
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.rounds import LABELS_SCHEMA

POOL = SplitSummary(size=20, rejected=2, labeled=18, duplicates=1)
SET_ASIDE = np.array([3, 9, 11])


def answer(run: RunDirectory, index: int, given: dict[int, int | None], corrections: bool = False) -> None:
    nothing = {name: pa.nulls(len(given), LABELS_SCHEMA.field(name).type) for name in LABELS_SCHEMA.names}
    table = pa.table({**nothing, "sample_id": list(given), "label": pa.array(given.values(), pa.int64())})
    write = run.round(index).write_corrections if corrections else run.round(index).write_labels
    write(table)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Nobody can tell sample 7 in round 0; in round 1 somebody could, but takes the label of 4 back."""
    run = RunDirectory(str(tmp_path / "run"))
    answer(run, 0, {7: None, 2: 1, 4: 0})
    answer(run, 1, {7: 1, 4: None}, corrections=True)
    answer(run, 1, {15: 0, 5: None})
    return run


def test_standing__what_is_answered_or_set_aside_is_not_in_the_pool(run: RunDirectory) -> None:
    before = Standing.after(0, run, POOL, SET_ASIDE)
    assert (before.excluded.tolist(), before.labeled, before.skipped) == ([3, 9, 11], 0, 0)
    assert before.unlabeled == 17
    first = Standing.after(1, run, POOL, SET_ASIDE)
    assert (first.excluded.tolist(), first.labeled, first.skipped) == ([2, 3, 4, 7, 9, 11], 2, 1)
    both = Standing.after(2, run, POOL, SET_ASIDE)
    assert (both.excluded.tolist(), both.labeled, both.skipped) == ([2, 3, 4, 5, 7, 9, 11, 15], 3, 2)
    assert both.unlabeled == 12


@pytest.mark.parametrize(
    ("round_index", "label_budget", "budget"), [(0, None, 4), (1, None, 6), (1, 8, 5), (1, 3, 0)]
)
def test_budget__what_is_asked_for_and_left(
    run: RunDirectory, round_index: int, label_budget: int | None, budget: int
) -> None:
    config = Config.from_mapping({"query": {"initial": 4, "size": 6}})
    stop = config.stop.model_copy(update={"label_budget": label_budget})
    standing = Standing.after(2, run, POOL, SET_ASIDE)
    assert standing.labeled == 3
    assert standing.budget(config.model_copy(update={"stop": stop}), round_index) == budget


def test_budget__no_more_than_the_pool_has(run: RunDirectory) -> None:
    standing = Standing.after(2, run, POOL, SET_ASIDE)
    assert standing.budget(Config.from_mapping({"query": {"size": 1000}}), 1) == standing.unlabeled

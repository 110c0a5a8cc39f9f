from __future__ import annotations

from datetime import datetime, timezone

import pyarrow as pa
import pytest

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling import LabelBook, awaiting_round, query_tasks
from dm2at_ray.labeling.tasks import asked_round, label_names

from .asked_run import ASKED, FIRST, AskedRun, queries


def test_query_tasks__of_the_round_that_awaits_labels(asked_run: AskedRun) -> None:
    round_ = awaiting_round(asked_run.directory)
    assert round_ is not None
    tasks = query_tasks(asked_run.directory, round_)
    assert [task.sample_id for task in tasks] == ASKED
    assert [task.rank for task in tasks] == list(range(len(ASKED)))
    assert [task.predicted for task in tasks] == [asked_run.predicted(sample) for sample in ASKED]
    assert tasks[0].score == 1.0
    assert {task.uri for task in tasks} == {"sklearn:digits"}
    assert not any(task.answered for task in tasks)
    near = [(n.sample_id, n.distance, n.label) for n in tasks[1].neighbors]
    assert near == [(7, 0.25, asked_run.names[7]), (1200, 12.5, asked_run.names[1200])]


def test_query_tasks__a_score_means_nothing_where_queries_are_drawn(asked_run: AskedRun) -> None:
    tasks = query_tasks(asked_run.directory, asked_run.directory.round(0))
    assert [(task.score, task.predicted, task.neighbors) for task in tasks] == [(None, None, ())] * 4
    assert [task.label for task in tasks] == [asked_run.names[sample] for sample in FIRST]


def test_query_tasks__what_is_answered_already_and_a_neighbor_that_was_corrected(asked_run: AskedRun) -> None:
    said = pa.table({"sample_id": [5, 41, 7], "label": [None, "nine", "four"], "round": [1, 1, 0]})
    LabelBook(asked_run.directory).append(said, "bob")
    tasks = query_tasks(asked_run.directory, asked_run.directory.round(1))
    assert [(t.sample_id, t.label) for t in tasks if t.answered] == [(5, None), (41, "nine")]
    assert tasks[1].neighbors[0].label == "four"


def test_query_tasks__a_neighbor_that_nobody_can_tell_any_more_is_no_help(asked_run: AskedRun) -> None:
    said = pa.table({"sample_id": [7], "label": pa.array([None], pa.string()), "round": [0]})
    LabelBook(asked_run.directory).append(said, "bob")
    tasks = query_tasks(asked_run.directory, asked_run.directory.round(1))
    assert [n.sample_id for n in tasks[1].neighbors] == [1200]


def test_query_tasks__without_context(asked_run: AskedRun) -> None:
    round_ = asked_run.directory.round(1)
    assert not any(task.neighbors for task in query_tasks(asked_run.directory, round_, neighbors=False))
    round_.files.delete("context.parquet")
    assert not any(task.neighbors for task in query_tasks(asked_run.directory, round_))


def test_label_names__of_a_round_whose_oracle_was_simulated(asked_run: AskedRun) -> None:
    asked_run.directory.round(1).write_labels(
        pa.table(
            {
                "sample_id": [1300, 5],
                "label": [3, 4],
                "source": ["simulated"] * 2,
                "time": [datetime(2025, 11, 3, tzinfo=timezone.utc)] * 2,
            }
        )
    )
    assert label_names(asked_run.directory, [1300, 41]) == {1300: "three"}


def test_awaiting_round__is_the_last_with_queries_that_is_not_final(asked_run: AskedRun) -> None:
    asked_run.directory.round(1).commit()
    assert awaiting_round(asked_run.directory) is None
    asked_run.directory.round(2).files.write_bytes("stages.json", b"{}")
    assert awaiting_round(asked_run.directory) is None
    asked_run.directory.round(2).write_queries(queries([11], [0]))
    round_ = awaiting_round(asked_run.directory)
    assert round_ is not None
    assert round_.index == 2


def test_asked_round__says_which_there_are(asked_run: AskedRun) -> None:
    assert asked_round(asked_run.directory).index == 1
    assert asked_round(asked_run.directory, 0).index == 0
    with pytest.raises(LabelError, match="--round 7: it has no queries; rounds with queries: 0, 1"):
        asked_round(asked_run.directory, 7)
    asked_run.directory.round(1).commit()
    with pytest.raises(LabelError, match="no round awaits labels now"):
        asked_round(asked_run.directory)

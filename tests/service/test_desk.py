"""What the desk hands out, takes and tells, on one run and by one caller at a time."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.client.schemas import AnswerIn
from dm2at_ray.labeling import LabelBook, labels_status, query_tasks
from dm2at_ray.labeling.tasks import known_classes
from dm2at_ray.service.answering import LATE_SECONDS
from dm2at_ray.service.desk import Desk
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.rounds import LABELS_SCHEMA
from dm2at_ray.store.tensors import tensor_column

from ..labeling.asked_run import ASKED, FIRST, NAMES, make_asked_run
from .people_run import CLASSES, POOL, answers, ask, in_book, make_people_run, outcomes, said

IDS = [50, 7, 12, 90, 33]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(make_people_run(tmp_path / "run", IDS), tmp_path / "cache" / "index.sqlite")


def trained(labels: dict[int, int | None]) -> pa.Table:
    return pa.table(
        [
            pa.array(labels, pa.int64()),
            pa.array(labels.values(), pa.int64()),
            ["ann"] * len(labels),
            [datetime(2025, 11, 3, tzinfo=timezone.utc)] * len(labels),
        ],
        schema=LABELS_SCHEMA,
    )


def test_queries__are_what_the_exporters_ask(tmp_path: Path) -> None:
    run = make_asked_run(str(tmp_path / "digits"))
    desk = Desk(run.directory, tmp_path / "index.sqlite")
    desk.answer("ann", answers({1300: run.names[1300], 5: None}))
    for index in (0, 1):
        tasks = query_tasks(run.directory, run.directory.round(index))
        page = desk.queries(index)
        assert page.next is None
        assert len(page.queries) == len(tasks) > 0
        for query, task in zip(page.queries, tasks, strict=True):
            shared = ("sample_id", "round", "rank", "score", "predicted", "answered", "label")
            assert [getattr(query, key) for key in shared] == [getattr(task, key) for key in shared]
            assert [(n.sample_id, n.distance, n.label) for n in query.neighbors] == [
                (n.sample_id, n.distance, n.label) for n in task.neighbors
            ]
    assert [len(query.neighbors) for query in desk.queries(1).queries] == [2] * len(ASKED)
    assert desk.classes() == known_classes(run.directory) == NAMES
    assert [query.score for query in desk.queries(0).queries] == [None] * len(FIRST)


def test_queries__page_by_page_and_by_state(desk: Desk) -> None:
    desk.answer("ann", answers({7: "cat", 33: None}))
    first = desk.queries(0, limit=2)
    rest = desk.queries(0, after=first.next, limit=3)
    assert [q.sample_id for q in (*first.queries, *rest.queries)] == IDS
    assert (first.next, rest.next) == (1, None)
    assert [q.sample_id for q in desk.queries(0, "open").queries] == [50, 12, 90]
    assert [(q.sample_id, q.label) for q in desk.queries(0, "answered").queries] == [(7, "cat"), (33, None)]
    assert [q.sample_id for q in desk.queries(0, "open", after=0, limit=1).queries] == [12]
    with pytest.raises(ProblemError, match="round 3 has no queries; rounds with queries: 0 to 0") as refused:
        desk.queries(3)
    assert refused.value.kind == "unknown-round"


def test_query__tells_of_one_sample(desk: Desk) -> None:
    assert (desk.query(12).rank, desk.query(12).answered) == (2, False)
    with pytest.raises(ProblemError, match="sample 13: no round of the run has asked for it") as refused:
        desk.query(13)
    assert refused.value.kind == "unknown-sample"


def test_query__has_a_twin_as_soon_as_its_part_is_there(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", IDS)
    desk = Desk(run, tmp_path / "index.sqlite")
    assert not any(query.twin for query in desk.queries(0).queries)
    for part, ids in enumerate(([12, 7], [50])):
        images = tensor_column(np.zeros((len(ids), 2, 2, 1), np.uint8))
        table = pa.table({"sample_id": ids, "predicted_label": [0] * len(ids), "image": images})
        run.round(0).files.write_table(run.round(0).adversarial_part(part), table)
        desk.look(0)
    assert [query.sample_id for query in desk.queries(0).queries if query.twin] == [50, 7, 12]


def test_answer__is_in_the_book_with_who_and_which_round(desk: Desk, tmp_path: Path) -> None:
    before = datetime.now(timezone.utc)
    report = desk.answer("ann", answers({7: "cat", 12: None}))
    assert [(each.sample_id, each.outcome) for each in report.outcomes] == [(7, "new"), (12, "skipped")]
    assert (report.written, report.mine) == (2, 2)
    assert report.round is not None
    assert (report.round.asked, report.round.answered, report.round.skipped) == (5, 2, 1)
    (first, second) = LabelBook(make_run(tmp_path)).records().to_pylist()
    assert (first["sample_id"], first["label"], first["source"], first["round"]) == (7, "cat", "ann", 0)
    assert before <= first["time"] == second["time"] <= datetime.now(timezone.utc)


def make_run(tmp_path: Path):  # type: ignore[no-untyped-def]
    from dm2at_ray.store import RunDirectory

    return RunDirectory(str(tmp_path / "run"))


def test_answer__again_writes_nothing_and_another_one_corrects(desk: Desk, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert outcomes(desk, "ann", {7: "cat"}) == ["new"]
    assert outcomes(desk, "bob", {7: "cat"}) == ["same"]
    assert outcomes(desk, "ann", {7: "cat", 12: "cow"}) == ["same", "new"]
    report = desk.answer("bob", answers({7: None}))
    assert [(each.outcome, each.detail) for each in report.outcomes] == [("correction", "was 'cat'")]
    assert desk.answer("bob", answers({7: "dog"})).outcomes[0].detail == "was 'cannot tell'"
    assert in_book(run) == [(7, "cat", "ann"), (12, "cow", "ann"), (7, None, "bob"), (7, "dog", "bob")]
    assert (desk.mine("ann"), desk.mine("bob"), desk.mine("eve")) == (1, 1, 0)


def test_answer__that_waited_too_long_does_not_undo_a_correction(desk: Desk, tmp_path: Path) -> None:
    came = time.monotonic()
    desk.answer("ann", answers({7: "dog"}), arrived=came)
    with pytest.raises(ProblemError, match="waited for more than 10 s and were not taken") as refused:
        desk.answer("ann", answers({7: "cat"}), arrived=came - LATE_SECONDS - 1)
    assert refused.value.kind == "busy"
    assert in_book(RunDirectory(str(tmp_path / "run"))) == [(7, "dog", "ann")]
    assert desk.query(7).label == "dog"


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (AnswerIn(sample_id=POOL, label="cat"), "unknown_sample", f"the pool has the ids 0 to {POOL - 1}"),
        (AnswerIn(sample_id=2**52, label="cat"), "unknown_sample", f"the pool has the ids 0 to {POOL - 1}"),
        (AnswerIn(sample_id=8, label="cat"), "not_asked", "no round has asked for it"),
        (AnswerIn(sample_id=7, label="cat", round=1), "other_round", "round 0 has asked for it, not round 1"),
        (
            AnswerIn(sample_id=7, label="Cta"),
            "unknown_class",
            "did you mean 'cat'? the classes are cat, dog, cow; add_classes makes 'Cta' one",
        ),
    ],
)
def test_answer__refused(desk: Desk, tmp_path: Path, answer: AnswerIn, outcome: str, detail: str) -> None:
    good = AnswerIn(sample_id=12, label="cow", round=0)
    with pytest.raises(ProblemError, match=r"1 of 2 labels are refused, so none was taken") as refused:
        desk.answer("ann", [good, answer])
    assert (refused.value.kind, refused.value.status) == ("refused-labels", 422)
    assert refused.value.more == {
        "outcomes": [{"sample_id": answer.sample_id, "outcome": outcome, "detail": detail}]
    }
    assert in_book(make_run(tmp_path)) == []
    report = desk.answer("ann", [good, answer], keep_good=True)
    assert [each.outcome for each in report.outcomes] == ["new", outcome]
    assert report.written == 1
    assert in_book(make_run(tmp_path)) == [(12, "cow", "ann")]


def test_answer__of_one_request_that_contradicts_itself(desk: Desk, tmp_path: Path) -> None:
    both = [AnswerIn(sample_id=7, label=label) for label in ("cat", "dog")]
    report = desk.answer("ann", [*both, AnswerIn(sample_id=12, label="cow")], keep_good=True)
    assert [each.outcome for each in report.outcomes] == ["conflict", "conflict", "new"]
    assert report.outcomes[0].detail == "the same request says 'dog' of it too"
    twice = [AnswerIn(sample_id=50, label="cat")] * 2
    assert [each.outcome for each in desk.answer("ann", twice).outcomes] == ["new", "same"]
    assert in_book(make_run(tmp_path)) == [(12, "cow", "ann"), (50, "cat", "ann")]


def test_answer__may_name_a_class_that_is_added(desk: Desk, tmp_path: Path) -> None:
    report = desk.answer("ann", answers({7: "emu"}), add_classes=["emu", "yak"])
    assert report.outcomes[0].outcome == "new"
    assert desk.classes() == known_classes(make_run(tmp_path)) == [*CLASSES, "emu"]
    assert outcomes(desk, "bob", {12: "emu"}) == ["new"]
    # A class that no label has any more is one no longer.
    desk.answer("bob", answers({7: "cat", 12: "cat"}))
    assert desk.classes() == known_classes(make_run(tmp_path)) == CLASSES


def test_answer__counts_though_the_book_s_last_word_is_of_the_future(desk: Desk, tmp_path: Path) -> None:
    ahead = datetime(2031, 1, 1, tzinfo=timezone.utc)
    LabelBook(make_run(tmp_path)).append(said({7: "cat"}), "clock ahead", ahead)
    assert outcomes(desk, "ann", {7: "dog"}) == ["correction"]
    assert LabelBook(make_run(tmp_path)).effective([7])["label"].to_pylist() == ["dog"]


def test_awaiting__until_the_oracle_has_answered(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", IDS, sufficient=0.7)
    desk = Desk(run, tmp_path / "index.sqlite")
    round_ = desk.awaiting()
    assert round_ is not None
    assert (round_.round, round_.asked, round_.needed, round_.open) == (0, 5, 4, True)
    desk.answer("ann", answers({50: "cat", 7: "cat", 12: None}))
    run.round(0).write_corrections(LABELS_SCHEMA.empty_table())
    run.round(0).write_labels(trained({50: 0, 7: 0, 12: None}))
    desk.look(0)
    assert desk.awaiting() is None
    assert desk.mine("ann") == 0
    lease = desk.claim("ann", "here", 5)
    assert (lease.round, lease.queries, lease.mine, lease.retry_seconds) == (None, [], 0, None)


def test_awaiting__takes_the_config_as_it_is_now(desk: Desk, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.write_config(run.config().with_settings(["query.sufficient=0.2"]))
    desk.look(0)
    round_ = desk.awaiting()
    assert round_ is not None
    assert round_.needed == 1
    run.write_config(run.config().with_settings(["query.oracle=simulated"]))
    desk.look(0)
    assert desk.awaiting() is None, "nobody is asked"


def test_rounds__what_was_left_open_may_be_asked_again(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", IDS)
    desk = Desk(run, tmp_path / "index.sqlite")
    desk.answer("ann", answers({50: "cat", 7: "cat"}))
    run.round(0).write_labels(trained({50: 0, 7: 0}))
    run.round(0).commit()
    ask(run, 1, [12, 200])
    desk.look(0)
    round_ = desk.awaiting()
    assert round_ is not None
    assert round_.round == 1
    # A late answer to round 0's question, one to round 1's, and a correction of what is trained with.
    late = [AnswerIn(sample_id=12, label="dog", round=0), AnswerIn(sample_id=200, label="cow", round=1)]
    report = desk.answer("ann", [*late, AnswerIn(sample_id=50, label="dog")])
    assert [each.outcome for each in report.outcomes] == ["new", "new", "correction"]
    assert [(r.round, r.answered, r.open) for r in desk.rounds()] == [(0, 3, False), (1, 2, True)]
    assert [row["round"] for row in LabelBook(run).records().to_pylist()] == [0, 0, 0, 1, 0]
    assert desk.query(12).round == 1


def test_rounds__of_a_simulated_oracle_have_its_labels(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", IDS)
    run.write_config(run.config().with_settings(["query.oracle=simulated"]))
    run.round(0).write_labels(trained({50: 0, 7: 2, 12: 1}))
    run.round(0).commit()
    desk = Desk(run, tmp_path / "index.sqlite")
    assert [q.label for q in desk.queries(0).queries] == ["cat", "cow", "dog", None, None]
    assert [(r.answered, r.open) for r in desk.rounds()] == [(3, False)]
    assert outcomes(desk, "ann", {50: "cat", 7: "cat"}) == ["same", "correction"]


def test_accept_partial__is_for_the_round_that_awaits_labels(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="round 0 has no label at all") as refused:
        desk.accept_partial(0, "eve")
    assert refused.value.kind == "wrong-state"
    with pytest.raises(ProblemError) as refused:
        desk.accept_partial(1, "eve")
    assert refused.value.kind == "unknown-round"
    desk.answer("ann", answers({7: "cat"}))
    assert desk.accept_partial(0, "eve").accepted
    run = make_run(tmp_path)
    assert LabelBook(run).is_accepted(0)
    desk.accept_partial(0, "bob")
    assert run.files.read_json("labels/accepted-0000.json")["source"] == "eve"
    run.round(0).write_labels(trained({7: 0}))
    with pytest.raises(ProblemError, match="round 0 awaits no labels") as refused:
        desk.accept_partial(0, "eve")
    assert refused.value.kind == "not-awaiting"


def test_accept_partial__by_others_is_seen(desk: Desk, tmp_path: Path) -> None:
    desk.answer("ann", answers({7: "cat"}))
    LabelBook(make_run(tmp_path)).accept_partial(0, "dm2at labels import")
    desk.look(0)
    assert [r.accepted for r in desk.rounds()] == [True]


def test_said__page_by_page_with_the_word_that_counts(desk: Desk) -> None:
    for who, labels in (("ann", {7: "cat", 12: "cow"}), ("bob", {7: "dog"}), ("ann", {50: None})):
        desk.answer(who, answers(labels))
    pages = [desk.said(limit=3)]
    pages.append(desk.said(after=pages[0].next, limit=3))
    words = [(w.sample_id, w.label, w.source, w.counts) for page in pages for w in page.said]
    assert words == [
        (7, "cat", "ann", False),
        (12, "cow", "ann", True),
        (7, "dog", "bob", True),
        (50, None, "ann", True),
    ]
    assert pages[1].next is None
    assert [(w.label, w.counts) for w in desk.said(7).said] == [("cat", False), ("dog", True)]
    assert [w.label for w in desk.said(7, after=desk.said(7, limit=1).next).said] == ["dog"]
    with pytest.raises(ProblemError, match="after = 99: not the `next` of a page") as refused:
        desk.said(after=99)
    assert refused.value.kind == "bad-request"


def test_disagreements__are_of_different_people(desk: Desk) -> None:
    desk.answer("ann", answers({7: "cat", 12: "cow", 50: None}))
    desk.answer("ann", answers({12: "dog"}))  # ann changed her mind: nobody disagrees
    desk.answer("bob", answers({7: "dog", 50: "cat", 12: "dog"}))
    first = desk.disagreements(limit=1)
    assert [d.sample_id for d in first.disagreements] == [7]
    rest = desk.disagreements(after=first.next)
    assert [d.sample_id for d in rest.disagreements] == [50]
    assert rest.next is None
    said_of_50 = rest.disagreements[0].said
    assert [(w.label, w.source, w.counts) for w in said_of_50] == [(None, "ann", False), ("cat", "bob", True)]


def test_status__agrees_with_the_command(desk: Desk, tmp_path: Path) -> None:
    desk.answer("ann", answers({7: "cat", 12: "cow", 50: None}))
    desk.answer("bob", answers({7: "dog", 50: "cat"}))
    status, expected = desk.status(), labels_status(make_run(tmp_path))
    assert status.corrections == expected["corrections"] == 2
    assert status.sources == expected["sources"] == {"bob": 2, "ann": 1}
    assert status.classes == expected["classes"]
    assert [(r.asked, r.answered - r.skipped, r.skipped) for r in status.rounds] == [
        (r["asked"], r["labeled"], r["skipped"]) for r in expected["rounds"]
    ]

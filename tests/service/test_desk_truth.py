"""The run directory is the truth: what the desk takes is in it, and what it holds can be thrown away."""

from __future__ import annotations

import gc
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dm2at_ray.client.schemas import AnswersReport
from dm2at_ray.labeling import LabelBook, import_labels, labels_history, labels_status
from dm2at_ray.service.answering import LATE_SECONDS, Given
from dm2at_ray.service.desk import Desk
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files

from .people_run import CLASSES, answers, ask, in_book, make_people_run, outcomes, said
from .test_desk_leases import in_threads

IDS = [50, 7, 12, 90, 33]
NOON = datetime(2025, 11, 3, 12, tzinfo=timezone.utc)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_people_run(tmp_path / "run", IDS)


def told(desk: Desk) -> tuple[object, ...]:
    """All that a desk tells, but for the numbers of pages."""
    desk.look(0)
    return (
        desk.status(),
        desk.classes(),
        [
            [q.model_copy(update={"leased_until": None}) for q in desk.queries(r.round).queries]
            for r in desk.rounds()
        ],
        desk.said(limit=1000).said,
        desk.disagreements(limit=1000).disagreements,
    )


@pytest.mark.parametrize("seed", range(5))
def test_look__files_in_any_order_count_as_in_the_book(run: RunDirectory, tmp_path: Path, seed: int) -> None:
    """Importers' clocks differ: files come in an order that is not that of their names."""
    random = np.random.default_rng(seed)
    desk = Desk(run, tmp_path / "index.sqlite")
    elsewhere = RunDirectory(str(tmp_path / "elsewhere"))
    for turn in range(25):
        ids = random.choice(IDS, size=random.integers(1, 4), replace=False).tolist()
        labels = {each: random.choice([*CLASSES, None]) for each in ids}
        # An own book for each file: only this one knows nothing of the others' times.
        moment = NOON + timedelta(minutes=int(random.permutation(1000)[turn]))
        name = LabelBook(elsewhere).append(said(labels), str(random.choice(["ann", "bob", "eve"])), moment)
        run.files.write_bytes(f"labels/{name}", elsewhere.files.read_bytes(f"labels/{name}"))
        elsewhere.files.delete("labels")
        if random.random() < 0.5:
            desk.look(0)
    desk.look(0)
    book, status = labels_status(run), desk.status()
    assert (status.corrections, status.sources, status.classes) == (
        book["corrections"],
        book["sources"],
        book["classes"],
    )
    history = labels_history(run)
    assert [(w.sample_id, w.label, w.source, w.time) for w in desk.said(limit=1000).said] == [
        (row["sample_id"], row["label"], row["source"], row["time"]) for row in history
    ]
    effective = LabelBook(run).effective().to_pylist()
    assert {w.sample_id: w.label for w in desk.said(limit=1000).said if w.counts} == {
        row["sample_id"]: row["label"] for row in effective
    }
    # By hand: two words on one sample, of two sources, that differ.
    disputed = {
        a["sample_id"]
        for a in history
        for b in history
        if a["sample_id"] == b["sample_id"] and a["source"] != b["source"] and a["label"] != b["label"]
    }
    assert [each.sample_id for each in desk.disagreements().disagreements] == sorted(disputed)
    assert told(desk) == told(Desk(run, tmp_path / "another.sqlite"))


def test_index__built_anew_it_is_the_same(run: RunDirectory, tmp_path: Path) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    for who, labels in (("ann", {7: "cat", 12: None}), ("bob", {7: "dog", 50: "cow"}), ("ann", {12: "cat"})):
        desk.answer(who, answers(labels))
    ask(run, 1, [3, 90])
    desk.look(0)
    desk.answer("ann", answers({3: "emu"}), add_classes=["emu"])
    before = told(desk)
    assert before == told(Desk(run, tmp_path / "another.sqlite"))
    desk.close()
    assert before == told(Desk(run, tmp_path / "index.sqlite"))


def zero_pages(path: Path, *pages: int) -> None:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[4096 * page : 4096 * (page + 1)] = bytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no index"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:10_000]),
        lambda path: zero_pages(path, *range(1, 20)),
        lambda path: zero_pages(path, 12),
        lambda path: sqlite3.connect(path).executescript("UPDATE meta SET value = 0 WHERE key = 'version'"),
        lambda path: sqlite3.connect(path).executescript(
            "UPDATE meta SET value = 'elsewhere' WHERE key = 'run'"
        ),
        lambda path: sqlite3.connect(path).executescript("DROP TABLE words"),
    ],
    ids=[
        "garbage",
        "empty",
        "cut off",
        "most of it zeroed",
        "a page of it zeroed",
        "version",
        "run",
        "tables",
    ],
)
def test_index__that_cannot_be_used_is_thrown_away(run: RunDirectory, tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    desk = Desk(run, tmp_path / "index.sqlite")
    desk.answer("ann", answers({7: "cat", 12: None}))
    before = told(desk)
    desk.close()
    spoil(tmp_path / "index.sqlite")
    assert told(Desk(run, tmp_path / "index.sqlite")) == before


@pytest.mark.parametrize("has_labels", [False, True])
def test_look__another_run_in_the_same_place(run: RunDirectory, tmp_path: Path, has_labels: bool) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    if has_labels:
        desk.answer("ann", answers({7: "cat"}))
    desk.claim("ann", "window", 5)
    shutil.rmtree(run.uri)
    make_people_run(tmp_path / "run", [1, 2, 7])
    desk.look(0)
    assert [(q.sample_id, q.answered) for q in desk.queries(0).queries] == [
        (1, False),
        (2, False),
        (7, False),
    ]
    assert [q.sample_id for q in desk.claim("bob", "window", 5).queries] == [1, 2, 7]


def test_look__a_file_that_was_taken_away_says_nothing_more(run: RunDirectory, tmp_path: Path) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    desk.answer("ann", answers({7: "cat", 50: "cow"}))
    desk.answer("bob", answers({7: "dog"}))
    run.files.delete(f"labels/{run.files.names('labels')[-1]}")
    desk.look(0)
    assert desk.query(7).label == "cat"
    assert desk.disagreements().disagreements == []
    assert told(desk) == told(Desk(run, tmp_path / "another.sqlite"))


def test_look__a_damaged_file_is_named_until_it_is_mended(run: RunDirectory, tmp_path: Path) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    name = LabelBook(run).append(said({7: "cat"}), "ann")
    data = run.files.read_bytes(f"labels/{name}")
    run.files.write_bytes(f"labels/{name}", data[:100])
    for _ in range(2):
        with pytest.raises(ProblemError, match=f"{name}: .*restore the file") as refused:
            desk.look(0)
        assert refused.value.kind == "unreachable"
    run.files.write_bytes(f"labels/{name}", data)
    desk.look(0)
    assert desk.query(7).label == "cat"


def test_answer__that_cannot_be_written_is_told_and_may_be_sent_again(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(Files, "write_table", full)
        with pytest.raises(ProblemError, match="No space left on device; send the labels again") as refused:
            desk.answer("ann", answers({7: "cat"}))
    assert refused.value.kind == "unreachable"
    assert not desk.query(7).answered
    assert outcomes(desk, "ann", {7: "cat"}) == ["new"]
    assert in_book(run) == [(7, "cat", "ann")]


def test_answer__those_written_together_see_what_was_said_just_before(
    run: RunDirectory, tmp_path: Path
) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")

    def request(who: str, labels: dict[int, str | None], *add: str) -> Given:
        return Given(who, answers(labels), None, False, add)

    requests = [
        request("ann", {7: "cat", 12: "emu"}, "emu"),
        request("bob", {7: "cat", 50: "emu"}),
        request("eve", {33: "cow", 8: "cow"}),
        request("eve", {7: "dog", 90: None}),
        request("ann", {33: "dog", 7: None}),
    ]
    desk.look()
    reports = desk._answering.take_all(requests)
    assert [type(each) for each in reports] == [AnswersReport] * 2 + [ProblemError] + [AnswersReport] * 2
    told_of = [[o.outcome for o in each.outcomes] for each in reports if isinstance(each, AnswersReport)]
    assert told_of == [["new", "new"], ["same", "new"], ["correction", "skipped"], ["new", "correction"]]
    assert [each.mine for each in reports if isinstance(each, AnswersReport)] == [3, 1, 1, 3]
    files = run.files.names("labels")
    assert [[row[0] for row in in_file(run, name)] for name in files] == [[7, 12, 50, 90, 33], [7], [7]]
    assert [row[1:] for name in files[1:] for row in in_file(run, name)] == [("dog", "eve"), (None, "ann")]
    assert told(desk) == told(Desk(run, tmp_path / "another.sqlite"))


def test_answer__a_late_one_keeps_none_of_those_beside_it_from_being_taken(
    run: RunDirectory, tmp_path: Path
) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    now = time.monotonic()
    requests = [
        Given(who, answers({sample: "cat"}), None, False, (), arrived)
        for who, sample, arrived in (("ann", 7, now), ("bob", 12, now - LATE_SECONDS - 1), ("eve", 50, now))
    ]
    desk.look()
    reports = desk._answering.take_all(requests)
    assert [type(each) for each in reports] == [AnswersReport, ProblemError, AnswersReport]
    assert in_book(run) == [(7, "cat", "ann"), (50, "cat", "eve")]


def in_file(run: RunDirectory, name: str) -> list[tuple[int, str | None, str]]:
    rows = run.files.read_table(f"labels/{name}").to_pylist()
    return [(row["sample_id"], row["label"], row["source"]) for row in rows]


LABELER = """
import sys
from pathlib import Path
from dm2at_ray.client.schemas import AnswerIn
from dm2at_ray.service.desk import Desk
from dm2at_ray.store import RunDirectory
desk = Desk(RunDirectory(sys.argv[1]), Path(sys.argv[2]))
for query in desk.claim("ann", "window", 5).queries:
    desk.answer("ann", [AnswerIn(sample_id=query.sample_id, label="cat")])
    print(query.sample_id, flush=True)
    sys.stdin.readline()
"""


def test_answer__outlives_a_kill_in_the_same_moment(run: RunDirectory, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    acknowledged = []
    for _ in range(2):
        command = [sys.executable, "-c", LABELER, run.uri, str(index)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged.append(int(process.stdout.readline()))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert in_book(run) == [(sample_id, "cat", "ann") for sample_id in acknowledged]
    desk = Desk(run, index)
    assert [q.sample_id for q in desk.queries(0, "answered").queries] == acknowledged == IDS[:2]
    assert [q.sample_id for q in desk.claim("ann", "window", 5).queries] == IDS[2:]


def test_two_desks_and_an_importer_at_once_lose_nothing(tmp_path: Path) -> None:
    own, rounds = 40, 15
    run = make_people_run(tmp_path / "run", range(4 * own))
    desks = [Desk(run, tmp_path / f"{name}.sqlite") for name in "ab"]

    def post(number: int) -> None:
        who, desk = f"person-{number}", desks[number % 2]
        for turn in range(own):
            desk.answer(who, answers({own * number + turn: CLASSES[number]}))
            if turn < rounds:
                # Everybody has a word on the same sample, and another one each time.
                desk.answer(who, answers({4 * own - 1: f"{who} {turn}"}), add_classes=[f"{who} {turn}"])

    def import_all(number: int) -> None:
        for turn in range(rounds):
            file = tmp_path / f"{turn}.csv"
            file.write_text(f"sample_id,label\n{own * number + turn},cow\n")
            import_labels(run, [str(file)], source="importer")

    in_threads(4, lambda number: post(number) if number < 3 else import_all(number))
    words = in_book(run)
    for number in range(3):
        who = f"person-{number}"
        mine = [(sample_id, label) for sample_id, label, source in words if source == who]
        shared = [label for sample_id, label in mine if sample_id == 4 * own - 1]
        assert shared == [f"{who} {turn}" for turn in range(rounds)], "each one's words in their order"
        assert sorted(mine)[:own] == [(own * number + turn, CLASSES[number]) for turn in range(own)]
        assert len(mine) == own + rounds
    assert len([None for *_, source in words if source == "importer"]) == rounds
    assert told(desks[0]) == told(desks[1]) == told(Desk(run, tmp_path / "c.sqlite"))
    assert desks[0].rounds()[0].answered == 3 * own + rounds + 1


def test_two_desks__the_later_correction_counts(run: RunDirectory, tmp_path: Path) -> None:
    """Each sees what the other has just written, though it has looked a moment ago."""
    one, two = (Desk(run, tmp_path / f"{name}.sqlite", clock=lambda: 1.76e9) for name in "ab")
    for turn in range(10):
        for number, desk in enumerate((one, two)):
            desk.answer(f"person-{number}", answers({7: CLASSES[(turn + number) % 3]}))
    labels = [label for _, label, _ in in_book(run)]
    assert all(before != after for before, after in pairwise(labels))
    assert LabelBook(run).effective([7])["label"].to_pylist() == [CLASSES[10 % 3]]


def test_desk__in_an_object_store(tmp_path: Path) -> None:
    from pyarrow import fs

    local = make_people_run(tmp_path / "run", IDS)
    run = RunDirectory(str(tmp_path / "run"))
    run.files = Files(fs._MockFileSystem(), "bucket/run")
    for name in (
        "config.yaml",
        "classes.json",
        "rounds/0000/queries.parquet",
        "pool/manifest/part-00000.parquet",
    ):
        run.files.write_bytes(name, local.files.read_bytes(name))
    desk = Desk(run, tmp_path / "index.sqlite")
    assert outcomes(desk, "ann", {7: "cat", 12: None}) == ["new", "skipped"]
    LabelBook(run).append(said({50: "cow"}), "bob")
    assert told(desk) == told(Desk(run, tmp_path / "another.sqlite"))
    assert in_book(run) == [(7, "cat", "ann"), (12, None, "ann"), (50, "cow", "bob")]
    assert [q.sample_id for q in desk.claim("ann", "window", 5).queries] == [90, 33]


def test_desk__python_s_memory_does_not_grow_with_queries_or_labels(tmp_path: Path) -> None:
    peaks, kept = [], []
    for count in (2000, 20_000):
        run = make_people_run(tmp_path / f"run-{count}", range(count))
        gc.collect()
        tracemalloc.start()
        desk = Desk(run, tmp_path / f"{count}.sqlite")
        desk.look()
        tracemalloc.reset_peak()
        for begin in range(0, count, 100):
            queries = desk.claim("ann", "window", 100).queries
            assert [query.sample_id for query in queries] == list(range(begin, begin + 100))
            desk.answer("ann", answers({query.sample_id: "cat" for query in queries}), session="window")
        peaks.append(tracemalloc.get_traced_memory()[1])
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert desk.rounds()[0].answered == count
        assert desk._index._writer.execute("PRAGMA cache_size").fetchone() == (-4096,)
    assert peaks[1] < 1.5 * peaks[0]
    assert kept[1] < 1.5 * kept[0]


def test_look__python_s_memory_does_not_grow_with_queries_or_labels(tmp_path: Path) -> None:
    peaks = []
    for count in (6000, 24_000):
        run = make_people_run(tmp_path / f"run-{count}", range(count))
        for begin in range(0, count, 1000):
            LabelBook(run).append(said(dict.fromkeys(range(begin, begin + 1000), "cat")), "ann")
        gc.collect()
        tracemalloc.start()
        desk = Desk(run, tmp_path / f"{count}.sqlite")
        desk.look()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert desk.rounds()[0].answered == count
    assert peaks[1] < 1.3 * peaks[0]


def test_look__does_not_wait_for_another_one_that_takes_long(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(run, tmp_path / "index.sqlite")
    desk.look(0)
    begun, may_end = threading.Event(), threading.Event()
    names = Files.each_name

    def slow(files: Files, directory: str = "") -> object:
        if directory == "rounds":
            begun.set()
            may_end.wait(timeout=30)
        return names(files, directory)

    monkeypatch.setattr(Files, "each_name", slow)
    looking = threading.Thread(target=desk.look, args=(0,))
    looking.start()
    assert begun.wait(timeout=30)
    monkeypatch.setattr("dm2at_ray.service.intake.time.monotonic", lambda: 1e12)
    assert len(desk.claim("ann", "window", 5).queries) == 5
    assert outcomes(desk, "ann", {7: "cat"}) == ["new"]
    monkeypatch.undo()
    may_end.set()
    looking.join(timeout=30)
    assert not looking.is_alive()

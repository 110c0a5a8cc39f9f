"""Leases: what is before one person is before nobody else, for a while."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dm2at_ray.labeling import LabelBook
from dm2at_ray.service.desk import Desk

from .people_run import CLASSES, Clock, answers, in_book, make_people_run, said

IDS = [50, 7, 12, 90, 33]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Desk:
    run = make_people_run(tmp_path / "run", IDS)
    return Desk(run, tmp_path / "index.sqlite", lease_seconds=60, clock=clock)


def claimed(desk: Desk, labeler: str, session: str, count: int) -> list[int]:
    return [query.sample_id for query in desk.claim(labeler, session, count).queries]


def test_claim__hands_out_the_best_that_nobody_holds(desk: Desk) -> None:
    assert claimed(desk, "ann", "window", 2) == [50, 7]
    assert claimed(desk, "bob", "window", 2) == [12, 90], "the session's name alone is nobody"
    assert claimed(desk, "ann", "phone", 2) == [33]
    lease = desk.claim("eve", "window", 2)
    assert lease.queries == []
    assert lease.round is not None
    assert (lease.round.leased, lease.round.answered) == (5, 0)


def test_claim__the_same_session_gets_its_own_again_and_more(desk: Desk, clock: Clock) -> None:
    claimed(desk, "ann", "window", 2)
    claimed(desk, "bob", "window", 1)
    clock.now += 50
    lease = desk.claim("ann", "window", 3)
    assert [query.sample_id for query in lease.queries] == [50, 7, 90]
    assert {query.leased_until.timestamp() for query in lease.queries if query.leased_until} == {
        clock.now + 60
    }
    clock.now += 50
    assert claimed(desk, "eve", "window", 5) == [12, 33], "bob's has ended, ann's were renewed"


def test_claim__of_fewer_gives_the_others_back(desk: Desk) -> None:
    claimed(desk, "ann", "window", 3)
    assert claimed(desk, "ann", "window", 1) == [50]
    assert claimed(desk, "bob", "window", 2) == [7, 12]


def test_claim__says_when_to_ask_again(desk: Desk, clock: Clock) -> None:
    claimed(desk, "ann", "window", 5)
    assert desk.claim("bob", "window", 1).retry_seconds == 15
    clock.now += 53
    assert desk.claim("bob", "window", 1).retry_seconds == 7
    clock.now += 7
    assert claimed(desk, "bob", "window", 5) == IDS
    desk.answer("bob", answers(dict.fromkeys(IDS, "cat")))
    lease = desk.claim("ann", "window", 1)
    assert (lease.queries, lease.retry_seconds) == ([], None)
    assert lease.round is not None


def test_release__frees_some_or_all_of_ones_own(desk: Desk) -> None:
    claimed(desk, "ann", "window", 3)
    claimed(desk, "bob", "window", 1)
    desk.release("ann", "window", [7, 90])
    assert claimed(desk, "eve", "window", 1) == [7], "90 is bob's"
    desk.release("ann", "window", None)
    assert claimed(desk, "eve", "window", 5) == [50, 7, 12, 33]


def test_answer__ends_the_lease_whoever_held_it(desk: Desk) -> None:
    claimed(desk, "ann", "window", 2)
    desk.answer("ann", answers({50: "cat"}), session="window")
    assert claimed(desk, "ann", "window", 2) == [7, 12]
    desk.answer("bob", answers({7: "cat"}))
    lease = desk.claim("ann", "window", 2)
    assert [query.sample_id for query in lease.queries] == [12, 90]
    assert lease.round is not None
    assert lease.round.leased == 2
    assert lease.mine == 1


def test_claim__knows_what_was_imported_meanwhile(desk: Desk, tmp_path: Path) -> None:
    claimed(desk, "ann", "window", 2)
    LabelBook(desk._run).append(said({50: "cat", 12: None}), "from another machine")
    desk.look(0)
    assert claimed(desk, "ann", "window", 2) == [7, 90]


def test_claim__leases_outlive_a_restart_on_the_same_index(desk: Desk, tmp_path: Path, clock: Clock) -> None:
    claimed(desk, "ann", "window", 2)
    desk.close()
    again = Desk(desk._run, tmp_path / "index.sqlite", clock=clock)
    assert claimed(again, "bob", "window", 2) == [12, 90]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs work(0), work(1), ... at once, and raises what one of them raises."""
    failed: list[BaseException] = []

    def safely(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # it is raised again below
            failed.append(error)

    threads = [threading.Thread(target=safely, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not any(thread.is_alive() for thread in threads)
    if failed:
        raise failed[0]


def test_desk__fifty_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    people, queries = 50, 1000
    ids = np.random.default_rng(0).permutation(20_000)[:queries]
    run = make_people_run(tmp_path / "run", ids)
    desk = Desk(run, tmp_path / "index.sqlite")
    served: Counter[int] = Counter()
    lock = threading.Lock()

    def label(number: int) -> None:
        who = f"person-{number}"
        while True:
            lease = desk.claim(who, "window", 5)
            with lock:
                served.update(query.sample_id for query in lease.queries)
            if not lease.queries:
                assert lease.round is not None
                if lease.retry_seconds is None:
                    return
                threading.Event().wait(0.01)
            for query in lease.queries:
                says = answers({query.sample_id: CLASSES[query.sample_id % 3]})
                assert desk.answer(who, says, session="window").written == 1

    in_threads(people, label)
    words = in_book(run)
    assert sorted(sample_id for sample_id, _, _ in words) == sorted(ids.tolist())
    assert all(label == CLASSES[sample_id % 3] for sample_id, label, _ in words)
    assert len({who for _, _, who in words}) > people // 2
    # Each one answered all that it held before it asked again, so what was served twice was two people's.
    assert served == Counter(ids.tolist())
    assert len(run.files.names("labels")) < queries / 2, "those who wait are written together"
    assert desk.rounds()[0].answered == queries


def test_desk__fifty_at_once_hold_different_queries(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", range(1000))
    desk = Desk(run, tmp_path / "index.sqlite")
    held: dict[int, list[int]] = {}
    in_threads(50, lambda number: held.update({number: claimed(desk, f"person-{number}", "window", 7)}))
    given = Counter(sample_id for ids in held.values() for sample_id in ids)
    assert sorted(given) == list(range(350)), "the best ones"
    assert set(given.values()) == {1}


def test_two_desks_of_one_index__hold_different_queries(tmp_path: Path) -> None:
    """As two servers have it that were given the same cache."""
    run = make_people_run(tmp_path / "run", range(1000))
    desks = [Desk(run, tmp_path / "index.sqlite") for _ in range(2)]
    held: dict[int, list[int]] = {}

    def claim(number: int) -> None:
        for count in range(1, 8):
            held[number] = claimed(desks[number % 2], f"person-{number}", "window", count)

    in_threads(20, claim)
    given = Counter(sample_id for ids in held.values() for sample_id in ids)
    assert len(given) == 20 * 7
    assert set(given.values()) == {1}


def test_two_desks_of_one_index__one_takes_in_what_the_other_just_begins_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_people_run(tmp_path / "run", IDS)
    fast, slow = (Desk(run, tmp_path / "index.sqlite") for _ in range(2))
    rounds = slow._intake._rounds
    marks_of = rounds._marks

    def overtaken(names: list[str]) -> list[str | None]:
        if any(name.endswith("queries.parquet") for name in names):
            fast.look(0)
        return marks_of(names)

    monkeypatch.setattr(rounds, "_marks", overtaken)
    assert claimed(slow, "ann", "window", 2) == [50, 7]
    assert claimed(fast, "bob", "window", 9) == [12, 90, 33]


def test_two_desks_of_one_index__another_run_lies_there_and_both_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_people_run(tmp_path / "run", IDS)
    fast, slow = (Desk(run, tmp_path / "index.sqlite") for _ in range(2))
    assert claimed(slow, "eve", "window", 2) == [50, 7]
    shutil.rmtree(tmp_path / "run")
    make_people_run(tmp_path / "run", [1, 2, 3])
    clear = slow._index.clear

    def overtaken(*args: Any) -> None:
        fast.look(0)
        assert claimed(fast, "ann", "window", 2) == [1, 2]
        clear(*args)

    monkeypatch.setattr(slow._index, "clear", overtaken)
    slow.look(0)
    assert claimed(slow, "bob", "window", 9) == [3], "ann's leases are not forgotten"


def test_many_desks_of_one_index__that_open_it_at_once_share_it(tmp_path: Path) -> None:
    run = make_people_run(tmp_path / "run", range(100))
    for attempt in range(10):
        held: dict[int, list[int]] = {}

        def claim(number: int, path: Path, held: dict[int, list[int]]) -> None:
            held[number] = claimed(Desk(run, path), f"person-{number}", "window", 5)

        path = tmp_path / f"{attempt}.sqlite"
        in_threads(8, partial(claim, path=path, held=held))
        assert len({sample_id for ids in held.values() for sample_id in ids}) == 8 * 5


def test_claim_and_answer__do_not_look_at_what_is_answered(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine, which are the same on every computer."""
    count, taken = 8000, []
    for answered in (0, count - 100):
        run = make_people_run(tmp_path / f"run-{answered}", range(count))
        if answered:
            LabelBook(run).append(said(dict.fromkeys(range(answered), "cat")), "ann")
        desk = Desk(run, tmp_path / f"{answered}.sqlite")
        claimed(desk, "bob", "window", 5)
        steps = Steps(desk)
        (sample_id, *_) = claimed(desk, "ann", "window", 5)
        of_claim = steps.count
        assert desk.answer("ann", answers({sample_id: "cow"})).written == 1
        taken.append((of_claim, steps.count - of_claim))
    (claim, answer), (claim_later, answer_later) = taken
    assert 0 < claim_later < 2 * claim < 4000
    assert 0 < answer_later < 2 * answer < 4000


class Steps:
    """Counts the steps of SQLite's machine for a desk."""

    def __init__(self, desk: Desk) -> None:
        self.count = 0
        for db in (desk._index._writer, desk._index._reader):
            db.set_progress_handler(self._step, 1)

    def _step(self) -> int:
        self.count += 1
        return 0

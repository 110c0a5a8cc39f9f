from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dm2at_ray.service.desk import Desk
from dm2at_ray.service.desks import Desks
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory

from .people_run import answers, in_book, make_people_run
from .test_desk_leases import in_threads


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    return [make_people_run(tmp_path / f"run-{number}", range(10), pool=100) for number in range(6)]


def open_desks(desks: Desks) -> list[Desk]:
    return [place.desk for place in desks._places.values() if place.desk is not None]


def test_at__few_are_open_however_many_there_are(runs: list[RunDirectory], tmp_path: Path) -> None:
    desks = Desks(tmp_path / "cache", most_open=2)
    for turn in range(2):
        for number, run in enumerate(runs):
            with desks.at(run) as desk:
                assert [q.sample_id for q in desk.claim("ann", "window", 2).queries] == [
                    2 * turn,
                    2 * turn + 1,
                ]
                desk.answer("ann", answers({2 * turn: "cat", 2 * turn + 1: "dog"}))
            assert len(open_desks(desks)) == min(2, 6 * turn + number + 1)
    assert [len(in_book(run)) for run in runs] == [4] * 6
    desks.close()
    assert open_desks(desks) == []


def test_at__one_in_use_is_never_closed(runs: list[RunDirectory], tmp_path: Path) -> None:
    desks = Desks(tmp_path / "cache", most_open=1)
    with desks.at(runs[0]) as first:
        for run in runs[1:]:
            with desks.at(run) as desk:
                assert len(desk.claim("ann", "window", 2).queries) == 2
        with desks.at(runs[0]) as again:
            assert again is first
        assert len(first.claim("ann", "window", 2).queries) == 2
    assert len(open_desks(desks)) == 1


def test_at__by_many_at_once(runs: list[RunDirectory], tmp_path: Path) -> None:
    desks = Desks(tmp_path / "cache", most_open=2)

    def label(number: int) -> None:
        for sample_id in range(10):
            for run in runs[number % 3 :]:
                with desks.at(run) as desk:
                    desk.answer(f"person-{number}", answers({sample_id: "cat"}))

    in_threads(12, label)
    assert all(sorted(sample_id for sample_id, *_ in in_book(run)) == list(range(10)) for run in runs[2:])
    assert len(open_desks(desks)) <= 2


def test_at__an_index_that_breaks_is_built_again(runs: list[RunDirectory], tmp_path: Path) -> None:
    desks = Desks(tmp_path / "cache")
    with desks.at(runs[0]) as desk:
        desk.answer("ann", answers({3: "cat"}))
        desk._index._writer.execute("DROP TABLE counted")
    with (
        pytest.raises(ProblemError, match=r"no such table: .*counted; it is built again") as refused,
        desks.at(runs[0]) as desk,
    ):
        desk.query(3)
    assert refused.value.kind == "unreachable"
    with desks.at(runs[0]) as desk:
        assert desk.query(3).label == "cat"
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 1


def test_at__leases_are_as_long_as_was_said(runs: list[RunDirectory], tmp_path: Path) -> None:
    desks = Desks(tmp_path / "cache", lease_seconds=0)
    for who in ("ann", "bob"):
        with desks.at(runs[0]) as desk:
            assert [q.sample_id for q in desk.claim(who, "window", 1).queries] == [0]


def test_at__an_index_that_breaks_is_closed_by_all_before_it_is_opened_anew(
    runs: list[RunDirectory], tmp_path: Path
) -> None:
    desks = Desks(tmp_path / "cache")
    reported: list[object] = []
    refused: set[str] = set()

    def use(number: int) -> None:
        for turn in range(20):
            try:
                with desks.at(runs[0]) as desk:
                    if number == 0 and turn % 5 == 0:
                        raise sqlite3.DatabaseError("database disk image is malformed")
                    desk.answer(f"person-{number}", answers({number: "cat" if turn % 2 else "dog"}))
                    reported.append((number, turn))
            except ProblemError as error:
                refused.add(error.kind)

    in_threads(10, use)
    assert refused == {"unreachable"}
    assert len(reported) > 100
    assert len(in_book(runs[0])) >= len(reported) - 10
    with desks.at(runs[0]) as desk:
        assert desk.rounds()[0].answered == len({sample_id for sample_id, *_ in in_book(runs[0])})
    assert len(open_desks(desks)) == 1

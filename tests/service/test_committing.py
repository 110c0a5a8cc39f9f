from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dm2at_ray.service.committing import GroupCommit

from .test_desk_leases import in_threads


class Doubler:
    """Doubles numbers, one group at a time; waits until it may."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may = threading.Event()
        self.at_work = threading.Lock()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        assert self.at_work.acquire(blocking=False), "two at once"
        self.may.wait(timeout=30)
        self.groups.append(list(numbers))
        self.at_work.release()
        return [ValueError(f"{number} is odd") if number % 2 else 2 * number for number in numbers]


def test_commit__those_who_wait_are_served_together() -> None:
    doubler = Doubler()
    commit: GroupCommit[int, int] = GroupCommit(doubler)
    results: dict[int, int] = {}

    def ask(number: int) -> None:
        if number == 19:
            while len(commit._waiting) < 18:
                threading.Event().wait(0.01)
            doubler.may.set()
        results[number] = commit(2 * number)

    in_threads(20, ask)
    assert results == {number: 4 * number for number in range(20)}
    assert sorted(number for group in doubler.groups for number in group) == list(range(0, 40, 2))
    assert len(doubler.groups) <= 3


def test_commit__a_group_is_bounded() -> None:
    doubler = Doubler()
    doubler.may.set()
    commit: GroupCommit[int, int] = GroupCommit(doubler, most=4)
    in_threads(30, lambda number: [commit(2 * number) for _ in range(10)] and None)
    assert max(map(len, doubler.groups)) <= 4
    assert sum(map(len, doubler.groups)) == 300


def test_commit__each_has_its_own_error() -> None:
    doubler = Doubler()
    doubler.may.set()
    commit: GroupCommit[int, int] = GroupCommit(doubler)
    with pytest.raises(ValueError, match="3 is odd"):
        commit(3)
    assert commit(2) == 4


def test_commit__one_that_fails_keeps_nobody_waiting() -> None:
    turns = [0]

    def fail_first(numbers: Sequence[int]) -> list[int | Exception]:
        turns[0] += 1
        if turns[0] == 1:
            raise OSError("no space left")
        return list(numbers)

    commit: GroupCommit[int, int] = GroupCommit(fail_first)
    with pytest.raises(OSError, match="no space left"):
        commit(1)
    assert commit(1) == 1

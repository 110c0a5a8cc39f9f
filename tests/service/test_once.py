from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dm2at_ray.service.once import Once, SharedCache


def test_get__one_makes_it_and_all_have_it() -> None:
    made, go = [], threading.Event()
    cache: SharedCache[int, int] = SharedCache(10)

    def make() -> int:
        made.append(1)
        go.wait(10)
        return 7

    with ThreadPoolExecutor(20) as people:
        wishes = [people.submit(cache.get, 1, make) for _ in range(20)]
        go.set()
        assert [wish.result(10) for wish in wishes] == [7] * 20
    assert len(made) == 1


def test_get__an_error_is_told_to_all_and_not_kept() -> None:
    once: Once[int, int] = Once()

    def fail() -> int:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        once.get(1, fail)
    assert once.get(1, lambda: 3) == 3


def test_get__what_was_not_used_for_longest_is_dropped() -> None:
    cache: SharedCache[str, str] = SharedCache(10, len)
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key * 4

    for key in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(key, lambda key=key: make(key)) == key * 4
    assert made == ["a", "b", "c", "b"]

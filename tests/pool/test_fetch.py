from __future__ import annotations

import threading

import pytest

from dm2at_ray.pool.fetch import ahead


def test_ahead__in_order_and_no_more_than_so_many_at_once() -> None:
    begun: list[int] = []
    behind = threading.Barrier(3)

    def read(item: int) -> int:
        begun.append(item)
        if item < 3:
            behind.wait(timeout=10)  # passes only where three are at work at once
        return 10 * item

    results = ahead(read, range(9), count=3)
    assert next(results) == 0
    assert set(begun) <= set(range(4))
    assert list(results) == [10 * item for item in range(1, 9)]
    assert sorted(begun) == list(range(9))


def test_ahead__an_error_comes_in_its_place() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise OSError("gone")
        return item

    results = ahead(read, range(5), count=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)

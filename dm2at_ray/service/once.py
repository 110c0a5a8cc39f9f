"""Values that many threads ask for and one makes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, NoReturn, TypeVar

from dm2at_ray.pool.lru import LruCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Lets the first who asks for a key make its value, and all who ask meanwhile wait for that one.

    An error is told to all of them; who asks later makes it anew.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._making: dict[K, Future[V]] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value, from `make` or from another thread's."""
        with self._lock:
            found = self._making.get(key)
            future = self._making.setdefault(key, Future())
        if found is not None:
            return found.result()
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)
        finally:
            with self._lock:
                del self._making[key]
        return future.result()


class SharedCache(Generic[K, V]):
    """Keeps what was used last, within a weight, for any number of threads; each value is made once.

    Args:
        capacity: Weight of all that is kept; the newest is kept whatever its weight.
        weigh: Weight of a value; 1 if left out.

    Examples:
        >>> cache = SharedCache(capacity=2)
        >>> [cache.get(key, lambda: key * 10) for key in (1, 2, 1)]
        [10, 20, 10]
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._lock = Lock()
        self._kept: LruCache[K, V] = LruCache(capacity, weigh)
        self._once: Once[K, V] = Once()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value that is kept, else the one of `make`, which runs without the lock."""
        found = self._find(key)
        return self._once.get(key, lambda: self._made(key, make)) if found is None else found[0]

    def _made(self, key: K, make: Callable[[], V]) -> V:
        # Another thread may have ended making it between the look and this call.
        found = self._find(key)
        if found is not None:
            return found[0]
        value = make()
        with self._lock:
            return self._kept.get(key, lambda _: value)

    def _find(self, key: K) -> tuple[V] | None:
        with self._lock:
            return (self._kept.get(key, _never),) if key in self._kept else None


def _never(key: object) -> NoReturn:
    raise AssertionError(key)

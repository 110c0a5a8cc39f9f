"""A least-recently-used cache with a bound on what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Keeps the values used last, as long as their weights stay within ``capacity``.

    The newest value is always kept, however heavy: whoever loads one item at a time holds at most
    ``capacity`` plus that item.

    Examples:
        >>> cache = LruCache(capacity=2)
        >>> [cache.get(key, load=lambda key: key * 10) for key in (1, 2, 3)]
        [10, 20, 30]
        >>> 1 in cache, 3 in cache
        (False, True)
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K, load: Callable[[K], V]) -> V:
        """The value of ``key``, loaded by ``load(key)`` where it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = load(key)
        self._values[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._capacity and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self._weight -= self._weigh(dropped)
        return value

from __future__ import annotations

from dm2at_ray.pool.lru import LruCache


def test_lru_cache__drops_what_was_used_longest_ago() -> None:
    loaded = []
    cache = LruCache[str, str](capacity=2)

    def load(key: str) -> str:
        loaded.append(key)
        return key.upper()

    assert [cache.get(key, load) for key in "abaca"] == ["A", "B", "A", "C", "A"]
    assert loaded == ["a", "b", "c"]
    assert "b" not in cache


def test_lru_cache__a_value_above_the_capacity_is_kept_alone() -> None:
    cache = LruCache[int, str](capacity=3, weigh=len)
    for key, value in enumerate(["ab", "c", "much too long"]):
        cache.get(key, lambda _, value=value: value)
    assert [key in cache for key in range(3)] == [False, False, True]
    cache.get(3, lambda _: "xyz")
    assert [key in cache for key in range(4)] == [False, False, False, True]

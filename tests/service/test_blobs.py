from __future__ import annotations

import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dm2at_ray.service.blobs import Blob, BlobCache


def blob(size: int, mark: bytes = b"x") -> Blob:
    return Blob(mark * size, "image/png", f'"{mark.decode()}"')


def test_get__what_was_put_last(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "deep/er/cache.sqlite", 1000)
    assert cache.get("a") is None
    cache.put("a", blob(5, b"a"))
    cache.put("a", blob(7, b"b"))
    assert cache.get("a") == blob(7, b"b")
    assert cache.size() == 7
    cache.close()
    again = BlobCache(tmp_path / "deep/er/cache.sqlite", 1000)
    assert again.get("a") == blob(7, b"b")
    again.close()


def test_put__lets_go_of_what_was_not_used_for_longest(tmp_path: Path) -> None:
    minutes = itertools.count(step=100)
    cache = BlobCache(tmp_path / "cache.sqlite", 1000, clock=lambda: next(minutes))
    for name in "abcd":
        cache.put(name, blob(200))
    assert cache.get("a")
    cache.put("e", blob(300))
    assert [bool(cache.get(name)) for name in "abcde"] == [True, False, True, True, True]
    assert cache.size() == 900


def test_put__one_beyond_the_capacity_is_not_kept(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache.sqlite", 1000)
    cache.put("a", blob(10))
    cache.put("b", blob(1001))
    assert cache.get("a")
    assert cache.get("b") is None


def test_put__the_file_stays_about_as_large_as_the_capacity(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache.sqlite", 1_000_000)
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda n: cache.put(str(n), blob(20_000)), range(400)))
    assert cache.size() <= 1_000_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 8_000_000
    assert (tmp_path / "cache.sqlite").stat().st_size < 1_500_000
    assert cache.get("399") or cache.get("398")


def test_open__a_file_that_is_none_of_its_own_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no data base" * 1000)
    for _ in range(2):
        cache = BlobCache(path, 1000)
        cache.put("a", blob(5))
        assert cache.get("a") == blob(5)
        cache.close()
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE blobs (something TEXT)")


def test_get__a_disk_that_fails_makes_it_forget_and_no_more(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache.sqlite", 1000)
    cache.put("a", blob(5))
    with sqlite3.connect(tmp_path / "cache.sqlite") as other:
        other.execute("DROP TABLE data")
    assert cache.get("a") is None
    cache.put("b", blob(5))
    assert cache.get("b") is None


def test_open__is_for_this_user_alone(tmp_path: Path) -> None:
    BlobCache(tmp_path / "own/cache.sqlite", 1000).close()
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0
    assert (tmp_path / "own/cache.sqlite").stat().st_mode & 0o077 == 0


def test_get__two_servers_share_a_file(tmp_path: Path) -> None:
    first, second = (BlobCache(tmp_path / "cache.sqlite", 10_000) for _ in range(2))
    with ThreadPoolExecutor(8) as writers:
        for cache in (first, second):
            list(writers.map(lambda n, cache=cache: cache.put(str(n), blob(10, b"z")), range(50)))
    assert all(first.get(str(n)) == second.get(str(n)) == blob(10, b"z") for n in range(50))

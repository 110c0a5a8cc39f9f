from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.checking import check_shard
from dm2at_ray.pool.directory import PoolDirectory, part_file, shard_file
from dm2at_ray.pool_check import _check_shard

from .conftest import pack_source


@contextmanager
def refusing(bucket: Any) -> Iterator[None]:
    """A store that takes no key: credentials that ran out in the middle of the work."""
    bucket.check_keys(True)
    try:
        yield
    finally:
        bucket.check_keys(False)


@pytest.fixture
def stored(bucket: Any, source: Source) -> tuple[PoolDirectory, Catalog]:
    directory = PoolDirectory.at(f"s3://{bucket.name}/pool")
    catalog = pack_source(directory, source)
    assert catalog is not None
    return directory, catalog


def test_check_shard__says_what_is_broken(directory: PoolDirectory, source: Source) -> None:
    catalog = pack_source(directory, source)
    assert catalog is not None
    assert check_shard(directory, catalog, 0, channels=3).num_rows == 0
    directory.delete(shard_file(0))
    broken = check_shard(directory, catalog, 0, channels=3)
    assert broken["reason"].to_pylist() == ["no such file"] * 7
    assert broken["uri"].unique().to_pylist() == [f"{directory.place.uri}/{shard_file(0)}"]


@pytest.mark.parametrize("moment", ["manifest", "footer", "images"])
def test_check_shard__store_that_refuses_breaks_no_image(
    stored: tuple[PoolDirectory, Catalog], bucket: Any, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, catalog = stored
    assert check_shard(directory, catalog, 0, channels=3).num_rows == 0
    parts = list(directory.parts(catalog))
    with directory.open_shard(0) as file:
        if moment != "manifest":
            monkeypatch.setattr(directory, "parts", lambda *_: iter(parts))
        if moment == "images":
            monkeypatch.setattr(directory, "open_shard", lambda _: file)
        with refusing(bucket), pytest.raises(PoolError, match="takes the credentials") as caught:
            check_shard(directory, catalog, 0, channels=3)
    name = part_file(0) if moment == "manifest" else shard_file(0)
    assert str(caught.value).startswith(f"'{directory.place.uri}/{name}' cannot be read: ")


def test_check_pool__of_a_store_that_refuses_ends(stored: tuple[PoolDirectory, Catalog], bucket: Any) -> None:
    directory, catalog = stored
    check = _check_shard._function
    assert check(directory.place.uri, catalog, 0).num_rows == 0
    with refusing(bucket):
        with pytest.raises(PoolError, match="takes the credentials"):
            check(directory.place.uri, catalog, 0)
        with pytest.raises(PoolError, match="takes the credentials"):
            directory.catalog()
    # What is wrong with the manifest alone is still a finding.
    bucket.put(f"pool/{part_file(0)}", b"no Parquet")
    (broken,) = check(directory.place.uri, catalog, 0).to_pylist()
    assert (broken["sample_id"], broken["uri"]) == (None, part_file(0))
    assert pq.read_metadata(f"s3://{bucket.name}/pool/{shard_file(0)}").num_rows == 7

"""A run directory in an object store: the same files, against servers in processes of their own."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import Lease


def test_files__on_a_store(any_bucket: Any) -> None:
    files = Files.at(f"{any_bucket.uri}/runs/first")
    assert files.names() == []
    assert not files.exists("a/b.bin")
    files.write_bytes("a/b.bin", b"one")
    files.write_bytes("a/b.bin", b"two, longer")
    files.write_bytes("a/empty", b"")
    files.write_json("c d#%41.json", {"x": 1})
    files.write_table("a/t.parquet", pa.table({"x": [1, 2]}))
    assert any_bucket.objects()["runs/first/a/b.bin"] == b"two, longer"
    assert files.exists("a")
    assert files.names() == ["a", "c d#%41.json"]
    assert files.names("a") == ["b.bin", "empty", "t.parquet"]
    assert files.read_bytes("a/b.bin") == b"two, longer"
    assert files.read_bytes("a/empty") == b""
    assert files.read_json("c d#%41.json") == {"x": 1}
    assert files.read_table("a/t.parquet").column("x").to_pylist() == [1, 2]
    with pytest.raises(FileNotFoundError):
        files.read_bytes("a/none")
    files.delete("a/b.bin")
    files.delete("a/b.bin")
    assert files.names("a") == ["empty", "t.parquet"]
    files.delete("a")
    assert not files.exists("a")
    assert files.names("a") == []
    assert [key for key, data in any_bucket.objects().items() if data] == ["runs/first/c d#%41.json"]


def test_files__at_the_root_of_a_bucket(any_bucket: Any) -> None:
    files = Files.at(f"{any_bucket.uri}")
    files.write_bytes("x", b"1")
    assert files.names() == ["x"]


def test_run_directory__on_a_store(any_bucket: Any) -> None:
    run = RunDirectory(f"{any_bucket.uri}/runs/first")
    with pytest.raises(RunError, match="no run there"):
        run.require()
    run.write_config(Config())
    run.require()
    assert run.config() == Config()
    run.check_config(Config())
    with pytest.raises(RunError, match="seed was 0, now 1"):
        run.check_config(Config(seed=1))
    assert run.rounds() == []
    run.write_status({"phase": "selecting"})
    assert RunDirectory(run.uri).status() == {"phase": "selecting"}


def test_lease__on_a_store(any_bucket: Any) -> None:
    files = Files.at(f"{any_bucket.uri}/runs/first")
    first, second = Lease(files, "first"), Lease(files, "second")
    first.acquire()
    with pytest.raises(RunError, match="works on it"):
        second.acquire()
    first.release()
    second.acquire()

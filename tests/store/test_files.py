"""Atomic files on a local disk and, by the same tests, on a filesystem that is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs

from dm2at_ray.errors import RunError
from dm2at_ray.store.files import Files


@pytest.fixture(params=["local", "elsewhere", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """The same directory as a local disk, as a filesystem that knows no renaming, and as one in memory."""
    if request.param == "local":
        return Files.at(str(tmp_path / "run"))
    if request.param == "memory":
        return Files(fs._MockFileSystem(), "bucket/run")
    return Files(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run/")


def test_write__reads_back_what_was_written_last(files: Files) -> None:
    files.write_bytes("deep/er/data.bin", b"first")
    files.write_bytes("deep/er/data.bin", b"second, longer")
    assert files.read_bytes("deep/er/data.bin") == b"second, longer"
    files.write_bytes("deep/er/data.bin", b"")
    assert files.read_bytes("deep/er/data.bin") == b""
    assert files.names("deep/er") == ["data.bin"]


def test_json__round_trip(files: Files) -> None:
    value = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    files.write_json("value.json", value)
    assert files.read_json("value.json") == value


def test_json__refuses_what_is_no_json(files: Files) -> None:
    files.write_json("value.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json("value.json", {"loss": float("nan")})
    assert files.read_json("value.json") == {"loss": 1.0}


def test_table__round_trip_of_all_or_some_columns(files: Files) -> None:
    table = pa.table({"a": [1, 2], "b": [[1.0], [2.0, 3.0]]})
    files.write_table("tables/t.parquet", table)
    assert files.read_table("tables/t.parquet").equals(table)
    assert files.read_table("tables/t.parquet", ["b"]).column_names == ["b"]


def test_table__a_folder_named_like_a_partition_adds_no_column(files: Files) -> None:
    files.write_table("epsilon=8/t.parquet", pa.table({"a": [1]}))
    assert files.read_table("epsilon=8/t.parquet").column_names == ["a"]


def test_read__what_is_not_there(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bytes("none")
    assert not files.exists("none")
    assert files.names("none") == []


def test_names__are_sorted_without_unfinished_writes(files: Files) -> None:
    for name in ("b", "a", ".a.0123.tmp", "folder/inner"):
        files.write_bytes(f"dir/{name}", b"")
    assert files.names("dir") == ["a", "b", "folder"]


def test_delete__files_folders_and_nothing(files: Files) -> None:
    files.write_bytes("dir/a", b"")
    files.write_bytes("dir/b", b"")
    files.delete("dir/a")
    assert files.names("dir") == ["b"]
    files.delete("dir")
    assert not files.exists("dir")
    files.delete("dir")


def test_below__is_the_same_directory_from_within(files: Files) -> None:
    files.below("rounds/0001").write_bytes("a", b"x")
    assert files.read_bytes("rounds/0001/a") == b"x"
    assert files.path("") == files.root


def fail(*_: object, **__: object) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_write__that_fails_leaves_the_old_content_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files = Files.at(str(tmp_path))
    files.write_bytes("dir/data", b"old")
    data: Any = b"new"
    with monkeypatch.context() as patch:
        if step == "write":
            data = "a str, which a binary file refuses"
        elif step == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises((OSError, TypeError)):
            files.write_bytes("dir/data", data)
    assert files.read_bytes("dir/data") == b"old"
    assert os.listdir(tmp_path / "dir") == ["data"]


def test_write__is_on_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            order.append(name)
            return function(*args)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(Path, "replace", noted("rename", Path.replace))
    Files.at(str(tmp_path)).write_bytes("data", b"new")
    assert order == ["fsync", "rename", "fsync"], "the data, its name, the directory that has the name"


def test_at__local_paths_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Files.at("here/run").write_bytes("a", b"x")
    assert Files.at(f"file://{tmp_path}/here/run").read_bytes("a") == b"x"
    assert Files.at(f"{tmp_path}/here/run/").read_bytes("a") == b"x"


@pytest.mark.parametrize("uri", ["nope://bucket/run", "fsspec+nope://run", "://run"])
def test_at__refuses_an_unknown_scheme_in_one_line(uri: str) -> None:
    with pytest.raises(RunError) as refused:
        Files.at(uri)
    assert str(refused.value).startswith(f"run directory {uri}: ")
    assert str(refused.value).endswith("; give a local path or a URI such as s3://bucket/run")
    assert "\n" not in str(refused.value)


def test_at__refuses_a_secret_without_repeating_it() -> None:
    with pytest.raises(RunError) as refused:
        Files.at("s3://key:hidden@bucket/run")
    assert str(refused.value).startswith("run directory s3://...@...: a secret in a URI ends up in logs")
    assert "hidden" not in str(refused.value)

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from dm2at_ray.atomic_output import open_output


def test_open_output__a_block_with_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("before")

    def fail() -> None:
        with open_output(fs.LocalFileSystem(), str(tmp_path / "kept")) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "before"


def test_open_output__makes_the_folders_and_replaces_what_is_there(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with open_output(fs.LocalFileSystem(), str(tmp_path / "deep" / "er" / "file.gz")) as stream:
            stream.write(content)
    assert (tmp_path / "deep" / "er" / "file.gz").read_bytes() == b"second"


def test_open_output__elsewhere_nothing_is_compressed_by_its_name(tmp_path: Path) -> None:
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    with open_output(elsewhere, "deep/er/file.gz") as stream:
        stream.write(b"plain")
    assert (tmp_path / "deep" / "er" / "file.gz").read_bytes() == b"plain"

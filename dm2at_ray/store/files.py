"""Whole-file reads and atomic writes on any pyarrow filesystem."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from dm2at_ray.atomic_output import open_output
from dm2at_ray.errors import RunError
from dm2at_ray.parquet import ForeignTypeError, open_parquet
from dm2at_ray.uri import holds_secret, impatient


class Files:
    """Files below one directory, each written whole or not at all.

    On a local disk a file is written beside its place, fsynced and renamed; an object store publishes an
    object only when its stream is closed, so there it is written in place.

    Args:
        filesystem: Any pyarrow filesystem.
        root: The directory, as a path of that filesystem.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")

    @classmethod
    def at(cls, uri: str) -> Files:
        """Open the directory at a URI (`s3://bucket/run`) or a local path, which need not exist.

        Raises:
            RunError: No filesystem is known for the URI, or it has a secret in it.
        """
        if "://" not in uri:
            return cls(fs.LocalFileSystem(), str(Path(uri).absolute()))
        if holds_secret(uri):
            scheme = uri.partition("://")[0]
            raise RunError(
                f"run directory {scheme}://...@...: a secret in a URI ends up in logs; leave it out and give "
                "it by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the like)"
            )
        try:
            filesystem, path = fs.FileSystem.from_uri(impatient(uri))
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise RunError(
                f"run directory {uri}: {reason}; give a local path or a URI such as s3://bucket/run"
            ) from None
        return cls(filesystem, path)

    @property
    def local_root(self) -> Path | None:
        """The directory where it lies on a file system of this machine, else None."""
        return Path(self.root) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def below(self, name: str) -> Files:
        """The same files seen from a directory below this one."""
        return Files(self.filesystem, self.path(name))

    def path(self, name: str) -> str:
        """The filesystem's path of a file here."""
        return posixpath.join(self.root, name) if name else self.root

    def exists(self, name: str) -> bool:
        """Whether the file or directory is there."""
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def names(self, directory: str = "") -> list[str]:
        """Sorted names of what lies in a directory, but for unfinished writes; empty when there is none."""
        return sorted(self.each_name(directory))

    def each_name(self, directory: str = "") -> Iterator[str]:
        """The same names in any order, one by one: on a local disk they are never held at once."""
        path = self.path(directory)
        if isinstance(self.filesystem, fs.LocalFileSystem):
            names = _local_names(path)
        else:
            selector = fs.FileSelector(path, allow_not_found=True)
            names = (info.base_name for info in self.filesystem.get_file_info(selector))
        return (name for name in names if not name.endswith(".tmp"))

    def delete(self, name: str) -> None:
        """Remove a file or a directory with all in it; nothing happens when it is not there."""
        info = self.filesystem.get_file_info(self.path(name))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(info.path)
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(info.path)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file atomically, making the directories above it."""
        with open_output(self.filesystem, self.path(name)) as stream:
            stream.write(data)

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file; `FileNotFoundError` when it is not there."""
        with self.filesystem.open_input_stream(self.path(name), compression=None) as stream:
            return stream.readall()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        self.write_bytes(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads(self.read_bytes(name))

    def write_table(self, name: str, table: pa.Table, group_rows: int | None = None) -> None:
        """Write a Parquet file atomically, in row groups of so many rows; as Arrow likes if left out."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=group_rows)
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file.

        Raises:
            RunError: A column is not of plain values.
        """
        with self.filesystem.open_input_file(self.path(name)) as source:
            try:
                return open_parquet(source).read(columns=columns)
            except ForeignTypeError as error:
                raise self._foreign(name, error) from None

    def read_batches(
        self, name: str, columns: list[str] | None = None, rows: int = 4096
    ) -> Iterator[pa.RecordBatch]:
        """Read a Parquet file some rows at a time.

        Raises:
            RunError: A column is not of plain values.
        """
        with self.filesystem.open_input_file(self.path(name)) as source:
            try:
                yield from open_parquet(source).iter_batches(batch_size=rows, columns=columns)
            except ForeignTypeError as error:
                raise self._foreign(name, error) from None

    def _foreign(self, name: str, error: ForeignTypeError) -> RunError:
        return RunError(f"{self.path(name)}: {error}; no run of this package wrote it")


def _local_names(path: str) -> Iterator[str]:
    # A listing by pyarrow asks for the size and time of every file, which takes five times as long.
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name
    except FileNotFoundError:
        return

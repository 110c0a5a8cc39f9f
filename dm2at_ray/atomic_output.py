"""Files that appear whole or not at all, on any pyarrow filesystem."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyarrow import fs


@contextmanager
def open_output(filesystem: fs.FileSystem, path: str) -> Iterator[IO[bytes] | Any]:
    """A binary stream into a file; the directories above it are made.

    On a local disk the file is written beside its place, fsynced and renamed when the block ends without an
    error. An object store publishes an object only when its stream is closed; where the block ends with
    an error, what is published is cut off, so nobody may count on a file here unless another one names it.
    """
    folder = path.rsplit("/", 1)[0]
    if not isinstance(filesystem, fs.LocalFileSystem):
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(path, compression=None) as stream:
            yield stream
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    # The rename itself survives a power cut only once the directory is on disk too.
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

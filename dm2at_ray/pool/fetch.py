"""Whole files, many at once: an object store answers in tens of milliseconds, so reads wait side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TypeVar

from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.location import is_store_error, one_line

_READERS = 16
MAX_FILE_BYTES = 256 << 20
"""A longer file is no image that anybody would train on; reading it would fill the memory."""

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(read: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``read`` of every item by 16 threads, in the items' order; after an error no further read is begun."""
    has_failed = Event()

    def read_unless_failed(item: T) -> R:
        if has_failed.is_set():
            raise CancelledError  # never seen: items are begun in order, so that one before has raised
        try:
            return read(item)
        except BaseException:
            has_failed.set()
            raise

    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read_unless_failed, items))


def ahead(read: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """``read`` of every item in the items' order; ``count`` of them are begun before they are asked for."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as readers:
        try:
            for item in items:
                waiting.append(readers.submit(read, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def read_file(filesystem: fs.FileSystem, path: str, uri: str) -> Raw:
    """A file's bytes, or the finding that it cannot be read.

    Raises:
        PoolError: the store itself cannot be used; ``uri`` is what the message names.
    """
    if isinstance(filesystem, fs.LocalFileSystem) and Path(path).exists() and not Path(path).is_file():
        return UnreadableImage("not a file")  # opening a named pipe would wait for ever
    try:
        with filesystem.open_input_file(path) as file:
            if file.size() > MAX_FILE_BYTES:
                return UnreadableImage(f"a file of {file.size():,} bytes is too long for an image")
            return file.read()
    except FileNotFoundError:
        return UnreadableImage("no such file")
    except OSError as error:
        if is_store_error(error):
            raise store_error(uri, error) from error
        return UnreadableImage(one_line(error))


def store_error(uri: str, error: BaseException) -> PoolError:
    """A store that cannot be used, as one line."""
    return PoolError(
        f"{uri!r} cannot be read: {one_line(error)}; see that the store is there and takes the credentials"
    )

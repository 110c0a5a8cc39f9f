"""A path or filesystem URI as the user wrote it, resolved once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.uri import holds_secret, impatient

# How pyarrow begins what S3, Google and Azure have answered; damaged Parquet data is an OSError too.
_STORES = ("AWS Error", "google::cloud::Status", "Azure Error")


@dataclass(frozen=True)
class Location:
    """A file or folder on a pyarrow filesystem.

    Attributes:
        filesystem: the pyarrow filesystem.
        path: the path inside that filesystem.
        uri: the same place as the pool's tables name it: an absolute path, or a URI with its scheme.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, path: str, field: str = "data.path") -> Location:
        """Resolve ``path`` (a local path, relative to the working directory, or a pyarrow filesystem URI).

        Raises:
            PoolError: no filesystem serves the URI; ``field`` is the config field the message names.
        """
        scheme, separator, _ = path.partition("://")
        if not separator:
            absolute = Path(os.path.abspath(Path(path).expanduser())).as_posix()
            return cls(fs.LocalFileSystem(), absolute, absolute)
        if holds_secret(path):
            raise PoolError(
                f"{field} {scheme}://...@...: a secret in a URI ends up in configs and logs; leave it out "
                "and give it by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the like)"
            )
        try:
            filesystem, inner = fs.FileSystem.from_uri(impatient(path))
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            raise PoolError(
                f"{field} {path!r}: {one_line(error)}; give a local path or a URI such as s3://..."
            ) from error
        inner = inner.rstrip("/") or "/"
        return cls(filesystem, inner, f"{scheme}://{inner}")

    @property
    def is_remote(self) -> bool:
        """Whether the files are not on this machine's own disks."""
        return not isinstance(self.filesystem, fs.LocalFileSystem)

    def child(self, path: str) -> Location:
        """The place of ``path``, a path of the same filesystem at or below this one."""
        return Location(self.filesystem, path, self.uri + path[len(self.path) :])

    def resolve(self, uri: str) -> str | None:
        """The filesystem path of ``uri``, or None where it is neither this place nor below it."""
        if uri == self.uri:
            return self.path
        if uri.startswith(self.uri.rstrip("/") + "/"):
            return self.path + uri[len(self.uri) :]
        return None

    def info(self) -> fs.FileInfo:
        """What is there (``.type`` is ``NotFound`` where nothing is).

        Raises:
            OSError: the filesystem does not answer.
        """
        return self.filesystem.get_file_info(self.path)

    def file_infos(self) -> list[fs.FileInfo]:
        """All files at or below this place that are not hidden, sorted by their filesystem paths."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        files = [info for info in found if info.type == fs.FileType.File and not self._hidden(info.path)]
        return sorted(files, key=lambda info: info.path)

    def files(self) -> list[str]:
        """Their paths alone."""
        return [info.path for info in self.file_infos()]

    def directly_below(self) -> tuple[list[str], list[str]]:
        """The files and the sub-folders directly below this place, hidden ones too: sorted filesystem paths.

        On Google's store all that is below is listed for it: of sub-folders Arrow tells there only where they
        were made as such (https://github.com/apache/arrow/issues/35993).
        """
        on_google = self.filesystem.type_name == "gcs"
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=on_google))
        files: set[str] = set()
        folders: set[str] = set()
        for info in infos:
            name, separator, _ = info.path[len(self.path) :].lstrip("/").partition("/")
            is_folder = bool(separator) or info.type == fs.FileType.Directory
            (folders if is_folder else files).add(f"{self.path.rstrip('/')}/{name}")
        return sorted(files), sorted(folders)

    def folders(self) -> list[str]:
        """The sub-folders directly below this place that are not hidden, as sorted filesystem paths."""
        return [path for path in self.directly_below()[1] if not self._hidden(path)]

    def _hidden(self, path: str) -> bool:
        return any(part.startswith(".") for part in path[len(self.path) :].split("/"))


def is_store_error(error: BaseException | None) -> bool:
    """Whether ``error`` says that an object store cannot be used now, rather than that one file is bad.

    A store that is down, or that takes the credentials no more, must end the work: else every image that is
    asked for meanwhile would be set aside for good. Nothing in the answer to a HEAD request tells a wrong key
    from a file that is closed to this user, so that a refusal counts as the store's.
    """
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return False
    return any(mark in str(error) for mark in _STORES)


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception's message on one line, at most ``limit`` characters; its type where it has none."""
    message = " ".join(str(error).split()) or type(error).__name__
    for mark in _STORES:  # before it stands the path, which whoever shows the message has named already
        message = message[max(0, message.find(mark)) :]
    return message if len(message) <= limit else message[: limit - 3] + "..."

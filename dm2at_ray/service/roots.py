"""The places that the service may open, and whether another lies in one of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from dm2at_ray.service.once import SharedCache
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory
from dm2at_ray.uri import absolute_uri

_KEPT_FILES = 4096


@dataclass(frozen=True)
class _Place:
    """A place in a form that can be compared.

    Attributes:
        where: Scheme and host or bucket; empty on this machine.
        options: What stands behind the question mark, such as the endpoint of a store.
        path: Its parts; on this machine with every link and `..` resolved.
    """

    where: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    path: tuple[str, ...]

    def holds(self, other: _Place) -> bool:
        same = (self.where, self.options) == (other.where, other.options)
        return same and other.path[: len(self.path)] == self.path


class Roots:
    """Folders, and buckets or folders of object stores, below which everything may be opened.

    A link that leads out of a root is outside; so is a path of an object store that has `..` in it, and the
    same bucket under another endpoint.

    Args:
        uris: Local paths or URIs.

    Examples:
        >>> roots = Roots(["/data", "s3://images/2025"])
        >>> roots.hold("/data/cats/1.jpg"), roots.hold("/data/../etc/passwd"), roots.hold("/database")
        (True, False, False)
        >>> roots.hold("s3://images/2025/1.jpg"), roots.hold("s3://images/2025/../2024/1.jpg")
        (True, False)
    """

    def __init__(self, uris: Iterable[str]) -> None:
        self._uris = tuple(uris)
        self._places = [place for uri in self._uris for place in _places(uri)]

    def plus(self, *uris: str) -> Roots:
        """These and others."""
        return Roots((*self._uris, *uris))

    def hold(self, uri: str) -> bool:
        """Whether a local path or a URI, as configs have them, lies in one of these."""
        found = _places(uri)
        return bool(found) and all(any(root.holds(place) for root in self._places) for place in found)

    def hold_file(self, uri: str) -> bool:
        """Whether a file that a source lists lies in one of these, whatever the endpoint of its store.

        What looks like options is a part of its name there.
        """
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme == "file":
            return self.hold(uri)
        places = [_remote(scheme, rest.partition("/")[0], rest.partition("/")[2], "")]
        roots = [_Place(root.where, (), root.path) for root in self._places]
        return all(place is not None and any(root.holds(place) for root in roots) for place in places)


def require_own(run: RunDirectory, name: str) -> None:
    """Insist that a file of a run directory is its own, and no link to another place.

    Raises:
        ProblemError: `outside-roots`.
    """
    if not Roots([run.uri]).hold_file(f"{run.uri.rstrip('/')}/{name}"):
        raise ProblemError("outside-roots", f"{name} of run {run.name} is a link that leads out of the run")


class OwnFiles:
    """Knows of which files of run directories it was found already that they are no links to other places.

    To resolve a path asks the system about each of its parts, which is dear beside a small picture.
    """

    def __init__(self) -> None:
        self._found: SharedCache[tuple[object, ...], bool] = SharedCache(_KEPT_FILES)

    def require(self, run: RunDirectory, name: str, mark: tuple[object, ...]) -> None:
        """As `require_own`; what was found holds as long as the file's mark (its `stamp`) is the same.

        Raises:
            ProblemError: `outside-roots`.
        """

        def found() -> bool:
            require_own(run, name)
            return True

        self._found.get((run.uri, name, mark), found)


def _places(uri: str) -> list[_Place]:
    """What a path or URI may be taken for, all of which must be inside; empty where it is nothing sound."""
    try:
        scheme, separator, _ = uri.partition("://")
        if not separator:
            return [_local(absolute_uri(uri))] if uri else []
        parts = urlsplit(uri)
        if scheme == "file":
            # Some readers decode what others take as it is written.
            local = parts.netloc in ("", "localhost") and not parts.query and not parts.fragment
            return [_local(path) for path in {parts.path, unquote(parts.path)}] if local else []
        found = [
            _remote(scheme, parts.netloc, path, parts.query) for path in {parts.path, unquote(parts.path)}
        ]
    except ValueError:  # a null byte, or a bracket that no host has
        return []
    return [] if None in found or parts.fragment else [place for place in found if place is not None]


def _local(path: str) -> _Place:
    real = os.path.realpath(path)
    return _Place((), (), tuple(part for part in real.split(os.sep) if part))


def _remote(scheme: str, host: str, path: str, query: str) -> _Place | None:
    parts = tuple(part for part in path.strip("/").split("/") if part)
    if not host or ".." in parts or "." in parts:
        return None
    return _Place((scheme, host), tuple(sorted(parse_qsl(query, keep_blank_values=True))), parts)

"""A run's images, as far as the service may open them: whoever made the run directory is not known here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa

from dm2at_ray.pool import Source, SourceSpec, open_source
from dm2at_ray.pool.decode import Raw
from dm2at_ray.pool.sources import Split
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.roots import Roots

# Their entries name a place inside a file, or inside a set, behind this sign.
_PLACE_SIGN = {"tar": "#", "torchvision": "#"}
_MEND = "start the service with --data and the place of the images, if it may be shown"


class GuardedSource(Source):
    """Reads images of a source that lie in the roots, and refuses the others before anything is opened.

    The paths of the config are looked at when it is made, each image's own at every read: a manifest may name
    any file, and a link may lead anywhere.

    Args:
        spec: Of the source.
        roots: What may be opened.

    Raises:
        ProblemError: `outside-roots`: a path of the spec lies elsewhere.
    """

    kind: ClassVar[str] = "guarded"

    def __init__(self, spec: SourceSpec, roots: Roots) -> None:
        super().__init__(spec)
        for field, path in (("data.path", spec.path), ("data.test_path", spec.test_path)):
            if path is not None and not roots.hold(path):
                raise ProblemError(
                    "outside-roots", f"{field} {path!r}: outside the places that this service opens; {_MEND}"
                )
            if path is not None and not all(roots.hold(link) for link in _links(spec.kind, path)):
                raise ProblemError(
                    "outside-roots", f"{field} {path!r}: a link in it leads outside; copy the file there"
                )
        self._roots = roots
        self._source = open_source(spec)
        self.has_test_split = self._source.has_test_split

    @property
    def class_names(self) -> list[str] | None:
        """Those of the spec: to ask the source would list it."""
        return None if self.spec.class_names is None else list(self.spec.class_names)

    def native_size(self) -> tuple[int, int] | None:
        """The source's own."""
        return self._source.native_size()

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """The source's own."""
        return self._source.entries(split)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The raw images.

        Raises:
            ProblemError: `outside-roots`: one of them lies elsewhere; none is read then.
            PoolError: The store does not answer.
        """
        for uri in uris:
            if not self._allows(uri):
                raise ProblemError(
                    "outside-roots", f"an image lies outside the places that this service opens; {_MEND}"
                )
        return self._source.read(uris, rows)

    def _allows(self, uri: str) -> bool:
        if self.spec.kind == "digits":
            return True
        sign = _PLACE_SIGN.get(self.spec.kind)
        return self._roots.hold_file(uri.rpartition(sign)[0] if sign else uri)


def _links(kind: str, path: str) -> Iterator[str]:
    """Links in a folder of which a source opens files on this machine that no entry of its manifest names."""
    local = path.removeprefix("file://")
    if kind not in ("pool", "torchvision") or "://" in local:
        return
    for folder, folders, files in os.walk(local):
        paths = (os.path.join(folder, name) for name in (*folders, *files))
        yield from filter(os.path.islink, paths)

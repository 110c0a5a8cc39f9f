"""Sources that lie at a place of their own, and their test images at another."""

from __future__ import annotations

from dm2at_ray.pool.location import Location
from dm2at_ray.pool.sources.base import Source, SourceSpec, Split, required_path


class RootedSource(Source):
    """A source whose entries are named by the files below ``path`` or ``test_path`` that they are in."""

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._roots: dict[Split, Location] = {"pool": Location.of(required_path(spec))}
        if spec.test_path is not None:
            self._roots["test"] = Location.of(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._roots

    def _find(self, uri: str) -> tuple[Split, str] | None:
        """The split and filesystem path of a file that an entry names."""
        for split, root in self._roots.items():
            path = root.resolve(uri)
            if path is not None:
                return split, path
        return None

    def _where(self, split: Split, path: str) -> str:
        """How an error names a place."""
        return f"data.{'path' if split == 'pool' else 'test_path'} {path!r}"

"""Sources whose listing falls into parts, files or folders, that any worker can list on its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.location import Location, one_line
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA, Source, SourceSpec, Split, required_path
from dm2at_ray.pool.sources.labels import LabelKind, class_numbers, classes_of


@dataclass(frozen=True)
class Part:
    """What is listed on its own.

    Attributes:
        path: filesystem path of a file or folder.
        size: bytes of a file; None for a folder, of which nothing but its listing tells that it has changed.
        changed: time of a file's last change in ns since the epoch; None where it is not known.
    """

    path: str
    size: int | None = None
    changed: int | None = None


class PartedSource(Source):
    """A source that is listed part by part.

    `list_part` gives the labels as the source has them, so that a part is listed without any other;
    `numbered` makes entries of it, once the classes of all are known.
    """

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._roots: dict[Split, Location] = {"pool": Location.of(required_path(spec))}
        if spec.test_path is not None:
            self._roots["test"] = Location.of(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._roots

    @abstractmethod
    def parts(self, split: Split) -> list[Part]:
        """The parts of a split in the order in which they are listed.

        Raises:
            PoolError: there are none, or they cannot be listed.
        """

    @abstractmethod
    def list_part(self, split: Split, path: str) -> Iterator[pa.Table]:
        """Uri, row and label (int64 or string, null where unknown) of the images of a part.

        Raises:
            PoolError: the part cannot be read.
        """

    @abstractmethod
    def learn_classes(self, labels: Iterable[tuple[str, pa.Array]]) -> None:
        """Be told what `class_names` would list the whole pool for.

        Args:
            labels: path of a part and labels of it, each of them at least once; of all parts in their order.

        Raises:
            PoolError: they are no labels.
        """

    @abstractmethod
    def numbered(self, split: Split, path: str, table: pa.Table) -> pa.Table:
        """What `list_part` has given, as entries: an ``ENTRY_SCHEMA`` table.

        Raises:
            PoolError: a label is none of the classes.
        """

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """Part by part."""
        for part in self.parts(split):
            for table in self.list_part(split, part.path):
                yield self.numbered(split, part.path, table)

    def _where(self, split: Split, path: str) -> str:
        return f"data.{'path' if split == 'pool' else 'test_path'} {path!r}"

    def _find(self, uri: str) -> tuple[Split, str] | None:
        """The split and filesystem path of a file that an entry names."""
        for split, root in self._roots.items():
            path = root.resolve(uri)
            if path is not None:
                return split, path
        return None


class FilesSource(PartedSource):
    """A file of many labeled images, or all such files below a folder in the order of their paths."""

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._listed: dict[Split, list[Part]] = {}
        self._classes: list[str] | None = None  # [] where nothing is labeled

    @property
    def class_names(self) -> list[str] | None:
        """The spec's names, else what the source says, or the labels are: the pool's, or else the test's."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        if self.spec.label_column is None:
            return None
        if self._classes is None:
            self._classes = self._declared_classes()
            for split in self._roots:
                self._classes = self._classes or self._classes_in(split, self._all_labels(split))
        return self._classes or None

    def learn_classes(self, labels: Iterable[tuple[str, pa.Array]]) -> None:
        """Take them from labels of the pool, where neither spec nor source says them."""
        if self.spec.class_names is None and self.spec.label_column is not None:
            classes = self._declared_classes() or self._classes_in("pool", labels)
            self._classes = classes if classes or not self.has_test_split else None

    def parts(self, split: Split) -> list[Part]:
        """The files, looked for once."""
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def numbered(self, split: Split, path: str, table: pa.Table) -> pa.Table:
        """What `list_part` has given, as entries."""
        labels = table["label"].combine_chunks()
        if self.spec.label_column is None:
            numbers = pa.nulls(len(labels), pa.int64())
        else:
            self._check_labels(split, path, labels)
            try:
                numbers = class_numbers(labels, self._label_kind, self.class_names or [])
            except ValueError as error:
                raise self._label_error(self._where(split, path), one_line(error)) from error
        return pa.table([table["uri"], table["row"], numbers], schema=ENTRY_SCHEMA)

    def _list(self, split: Split) -> list[Part]:
        root = self._roots[split]
        where = self._where(split, root.uri)
        try:
            found = root.info()
            if found.type == fs.FileType.File:
                return [Part(root.path, found.size, found.mtime_ns)]
            infos = root.file_infos() if found.type == fs.FileType.Directory else []
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; give a place that can be read") from error
        files = [info for info in infos if info.path.endswith(self._suffixes)]
        if not files:
            raise self._none_there(split, found.type, [info.path for info in infos])
        return [Part(info.path, info.size, info.mtime_ns) for info in files]

    def _all_labels(self, split: Split) -> Iterator[tuple[str, pa.Array]]:
        for part in self.parts(split):
            for labels in self._part_labels(split, part.path):
                yield part.path, labels

    def _classes_in(self, split: Split, labels: Iterable[tuple[str, pa.Array]]) -> list[str]:
        def checked() -> Iterator[pa.Array]:
            for path, column in labels:
                self._check_labels(split, path, column)
                yield column

        try:
            return classes_of(checked(), self._label_kind)
        except ValueError as error:
            raise self._label_error(self._where(split, self._roots[split].uri), one_line(error)) from error

    @property
    @abstractmethod
    def _suffixes(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def _label_kind(self) -> LabelKind: ...

    @abstractmethod
    def _part_labels(self, split: Split, path: str) -> Iterator[pa.Array]:
        """The labels that `list_part` gives, without the rest."""

    def _declared_classes(self) -> list[str]:
        """Names that the source says by itself; [] where only its labels tell."""
        return []

    def _check_labels(self, split: Split, path: str, labels: pa.Array) -> None:
        """Refuse labels of a part that are of another kind than those of the others."""

    @abstractmethod
    def _none_there(self, split: Split, found: fs.FileType, paths: list[str]) -> PoolError: ...

    @abstractmethod
    def _label_error(self, where: str, what: str) -> PoolError: ...

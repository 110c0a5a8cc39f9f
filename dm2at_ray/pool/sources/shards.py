"""Sources of shards, files of many images each, that any worker can list on its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.location import one_line
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA, SourceSpec, Split
from dm2at_ray.pool.sources.labels import LabelKind, class_numbers, classes_of
from dm2at_ray.pool.sources.rooted import RootedSource


@dataclass(frozen=True)
class Shard:
    """A file of many images.

    Attributes:
        path: on the source's filesystem.
        size: in bytes.
        changed: time of the last change in ns since the epoch; None where it is not known.
    """

    path: str
    size: int
    changed: int | None


class ShardedSource(RootedSource):
    """A file of many labeled images, or all such files below a folder in the order of their paths.

    `list_shard` gives the labels as the shard has them, so that it is listed without any other; `numbered`
    makes entries of it, once the classes of all are known.
    """

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._listed: dict[Split, list[Shard]] = {}
        self._classes: list[str] | None = None  # [] where nothing is labeled

    @abstractmethod
    def list_shard(self, split: Split, path: str) -> Iterator[pa.Table]:
        """Uri, row and label (int64 or string, null where unknown) of the images of a shard.

        Raises:
            PoolError: it cannot be read.
        """

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
        """Be told what `class_names` would list all shards of the pool for.

        Args:
            labels: path of a shard and labels of it, each of them at least once; of all shards, in order.

        Raises:
            PoolError: they are no labels.
        """
        if self.spec.class_names is None and self.spec.label_column is not None:
            classes = self._declared_classes() or self._classes_in("pool", labels)
            self._classes = classes if classes or not self.has_test_split else None

    def shards(self, split: Split) -> list[Shard]:
        """The shards of a split in the order in which they are listed; looked for once.

        Raises:
            PoolError: there are none, or the place cannot be read.
        """
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """Shard by shard."""
        for shard in self.shards(split):
            for table in self.list_shard(split, shard.path):
                yield self.numbered(split, shard.path, table)

    def numbered(self, split: Split, path: str, table: pa.Table) -> pa.Table:
        """What `list_shard` has given, as entries: an ``ENTRY_SCHEMA`` table.

        Raises:
            PoolError: a label is none of the classes.
        """
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

    def _list(self, split: Split) -> list[Shard]:
        root = self._roots[split]
        where = self._where(split, root.uri)
        try:
            found = root.info()
            if found.type == fs.FileType.File:
                return [Shard(root.path, found.size, found.mtime_ns)]
            infos = root.file_infos() if found.type == fs.FileType.Directory else []
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; give a place that can be read") from error
        files = [info for info in infos if info.path.endswith(self._suffixes)]
        if not files:
            raise self._none_there(split, found.type, [info.path for info in infos])
        return [Shard(info.path, info.size, info.mtime_ns) for info in files]

    def _all_labels(self, split: Split) -> Iterator[tuple[str, pa.Array]]:
        for shard in self.shards(split):
            for labels in self._shard_labels(split, shard.path):
                yield shard.path, labels

    def _classes_in(self, split: Split, labels: Iterable[tuple[str, pa.Array]]) -> list[str]:
        def checked() -> Iterator[pa.Array]:
            for path, column in labels:
                if len(column):
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
    def _shard_labels(self, split: Split, path: str) -> Iterator[pa.Array]:
        """The labels that `list_shard` gives, without the rest."""

    def _declared_classes(self) -> list[str]:
        """Names that the source says by itself; [] where only its labels tell."""
        return []

    def _check_labels(self, split: Split, path: str, labels: pa.Array) -> None:
        """Refuse labels of a shard that are of another kind than those of the others."""

    @abstractmethod
    def _none_there(self, split: Split, found: fs.FileType, paths: list[str]) -> PoolError: ...

    @abstractmethod
    def _label_error(self, where: str, what: str) -> PoolError: ...

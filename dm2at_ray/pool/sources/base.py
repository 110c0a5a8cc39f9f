"""What every source of images answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw

Split = Literal["pool", "test"]

ROWS_PER_TABLE = 65_536
ENTRY_SCHEMA = pa.schema([("uri", pa.string()), ("row", pa.int64()), ("label", pa.int64())])


@dataclass(frozen=True)
class SourceSpec:
    """Where the images are and how they are to be read: plain values that any worker can be given.

    Attributes:
        kind: a key of ``SOURCES``, such as image_folder, list, parquet, pool or tar.
        path: the pool: a path or pyarrow filesystem URI; None for sets that come with a library.
        test_path: the test images, laid out like the pool; None holds out ``test_fraction`` of the pool.
        test_fraction: share of the labeled images held out for testing, where there is no other test set.
        image_column: Parquet column of encoded bytes or uint8 pixels.
        label_column: column of integer or string labels (Parquet, CSV), or field of a tar sample's .json;
            None for a pool without labels.
        image_size: height and width in pixels that images are brought to; None where the source knows it.
        channels: 1 or 3; None where the source knows it.
        seed: of the held-out draw.
        class_names: names in the order of the labels; None takes them from the source.
        uri_column: of a ``list``: column of image paths or URIs.
        dataset: of ``torchvision``: the name of its class, such as CIFAR10.
    """

    kind: str
    path: str | None = None
    test_path: str | None = None
    test_fraction: float = 0.2
    image_column: str = "image"
    label_column: str | None = "label"
    image_size: int | None = None
    channels: int | None = None
    seed: int = 0
    class_names: tuple[str, ...] | None = None
    uri_column: str = "uri"
    dataset: str | None = None


class Source(ABC):
    """A set of images that can be listed in a fixed order and read in any order.

    Built from its spec alone, so that a worker opens its own; nothing is read until it is asked for.

    Attributes:
        kind: the name that ``SourceSpec.kind`` calls it by.
        has_test_split: whether the test images are a set of their own, not held out from the pool.
    """

    kind: ClassVar[str]
    has_test_split: bool

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their labels; None where nothing is labeled."""

    @abstractmethod
    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The raw images named by ``uris`` and ``rows``, in that order.

        Each is encoded bytes, a uint8 array (H, W) or (H, W, C), or an ``UnreadableImage`` for one that
        cannot be read: one bad image never hides the others.
        """

    @abstractmethod
    def entries(self, split: Split) -> Iterator[pa.Table]:
        """All entries of one split in canonical order, as ``ENTRY_SCHEMA`` tables of any size.

        Where ``has_test_split`` is false only ``"pool"`` is asked for.
        """

    def native_size(self) -> tuple[int, int] | None:
        """(image size, channels) where every image is known to have them, else None."""
        return None

    def size_hint(self) -> int | None:
        """How many entries the pool's place has by now, where it says so itself, else None.

        Asked of a source that may grow: only a new source lists what was added.
        """
        return None

    def count(self, split: Split) -> int | None:
        """How many entries `tables` gives, where that is known without listing them, else None."""
        return None

    def checked(self, split: Split) -> Iterator[pa.Table] | None:
        """The entries of `tables` with what is known of the images, where each was read before, else None.

        The columns behind uri, row and label: status, reason, hash, size, and duplicate_of, the lowest place
        in this split with the same hash where that is another one.
        """
        return None

    def tables(self, split: Split) -> Iterator[pa.Table]:
        """Tables of uri, row, label (null where unknown) of a split, in an order that never changes.

        Every table but the last has exactly 65,536 rows. Images without a label cannot test anything: they
        are left out of the test split, and where the test images are held out they stay in the pool.
        The held-out draw depends on the seed and the entry's place in the canonical order only.

        Raises:
            PoolError: the split has no images, or the source cannot be listed.
        """
        chosen = self.entries(split) if self.has_test_split else self._held_out(split)
        if split == "test":
            chosen = (table.filter(table.column("label").is_valid()) for table in chosen)
        empty = True
        for table in rebatched(chosen):
            empty = False
            yield table
        if empty:
            raise self._no_images(split)

    def _held_out(self, split: Split) -> Iterator[pa.Table]:
        start = 0
        for table in self.entries("pool"):
            index = np.arange(start, start + table.num_rows, dtype=np.int64)
            start += table.num_rows
            drawn = uniform(self.spec.seed, 0, Stream.SPLIT, index, 1)[:, 0] < self.spec.test_fraction
            is_test = pc.and_(pa.array(drawn), table.column("label").is_valid())
            yield table.filter(is_test if split == "test" else pc.invert(is_test))

    def _no_images(self, split: Split) -> PoolError:
        if split == "pool":
            return PoolError(
                f"data.path {self.spec.path!r}: no images for the pool; give a place that holds some"
            )
        if self.has_test_split:
            return PoolError(
                f"data.test_path {self.spec.test_path!r}: no labeled images; give a place that holds some"
            )
        return PoolError(
            f"data.test_fraction {self.spec.test_fraction}: holds out no labeled test image; "
            "raise it, or name labeled test images in data.test_path"
        )


def entry_table(
    uris: Sequence[str] | pa.Array, rows: np.ndarray, labels: pa.Array | np.ndarray | None
) -> pa.Table:
    """An ``ENTRY_SCHEMA`` table; ``labels`` None means that none is known."""
    label_column = pa.nulls(len(rows), pa.int64()) if labels is None else pa.array(labels, pa.int64())
    return pa.table(
        [pa.array(uris, pa.string()), pa.array(rows, pa.int64()), label_column], schema=ENTRY_SCHEMA
    )


def required_path(spec: SourceSpec) -> str:
    """``spec.path``, for sources that cannot do without."""
    if not spec.path:
        raise PoolError(f"data.path is not set: a {spec.kind} source needs a path or URI")
    return spec.path


def refuse_test_path(spec: SourceSpec, reason: str) -> None:
    """Refuse a ``test_path`` that would be without effect."""
    if spec.test_path is not None:
        raise PoolError(f"data.test_path {spec.test_path!r}: {reason}; remove it")


def rebatched(tables: Iterable[pa.Table], rows: int = ROWS_PER_TABLE) -> Iterator[pa.Table]:
    """The same rows in tables of one size, the last one excepted.

    Examples:
        >>> some = [pa.table({"n": range(begin, begin + 3)}) for begin in (0, 3)]
        >>> [table["n"].to_pylist() for table in rebatched(some, rows=4)]
        [[0, 1, 2, 3], [4, 5]]
    """
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        if count < rows:
            continue
        whole = pa.concat_tables(held)
        for begin in range(0, count - rows + 1, rows):
            yield whole.slice(begin, rows).combine_chunks()
        held, count = [whole.slice(count - count % rows)], count % rows
    if count:
        yield pa.concat_tables(held).combine_chunks()

"""A pool that `dm2at pool build` has packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.errors import PoolError
from dm2at_ray.pool.catalog import Catalog
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.sources.base import ENTRY_SCHEMA, Source, SourceSpec, Split, required_path
from dm2at_ray.pool.sources.parquet import Parquet

_LISTED = ["sample_id", "uri", "row", "label", "status", "origin", "origin_row"]


class PackedPool(Source):
    """A packed pool: entries from its manifest, images from its shards, row group by row group.

    Images that were set aside when it was packed stay in the listing, by uri and row of where they came
    from, and read as what was wrong with them: places in the listing are the pool's own ids. An object sees
    the pool as it was when it was first asked; a new one sees what was added since, behind all else.
    """

    kind = "pool"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._directories: dict[Split, PoolDirectory] = {"pool": PoolDirectory.at(required_path(spec))}
        if spec.test_path is not None:
            self._directories["test"] = PoolDirectory.at(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._directories
        test_shards = None if spec.test_path is None else _inside(spec.test_path, "shards")
        self._shards = Parquet(
            SourceSpec(
                kind="parquet",
                path=_inside(required_path(spec), "shards"),
                test_path=test_shards,
                image_column="image",
                label_column=None,
            )
        )

    @property
    def class_names(self) -> list[str] | None:
        """The spec's names, else the pool's, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        for catalog in self._catalogs.values():
            if catalog.class_names:
                return list(catalog.class_names)
        return None

    def native_size(self) -> tuple[int, int] | None:
        """What was given or known when the pool was built; images of another size are brought to it."""
        catalog = self._catalogs["pool"]
        if catalog.image_size is None or catalog.channels is None:
            return None
        return catalog.image_size, catalog.channels

    def size_hint(self) -> int:
        """Ids of the pool, the held-out ones included, read anew from `pool.json`: it grows, or stays."""
        return self._directories["pool"].catalog().size

    def count(self, split: Split) -> int:
        """Images of a split, those set aside included; label columns are read where some have none only."""
        catalog = self._catalogs[self._key(split)]
        if self.has_test_split:
            return catalog.size if split == "pool" else sum(part.labeled for part in catalog.parts)
        test = sum(int(np.count_nonzero(self._drawn(catalog, index))) for index in range(len(catalog.parts)))
        return test if split == "test" else catalog.size - test

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """The manifest, part by part."""
        for table in self._listing(split, _LISTED):
            yield table.select(ENTRY_SCHEMA.names)

    def checked(self, split: Split) -> Iterator[pa.Table]:
        """The entries of `tables`, as the pool's manifest knows them: no image is read.

        Yields:
            uri, row, label, status, reason, hash, size, and duplicate_of: the lowest place with the same
            hash, counted in the tables of this split. 65,536 rows each but for the last.
        """
        firsts = self._first_places(split)
        place = 0
        for table in _Manifest(self).tables(split):
            keys, ids = _content_keys(table), table["sample_id"].to_numpy()
            originals = np.full(len(ids), -1)
            for row in np.flatnonzero(np.isin(keys, np.fromiter(firsts, np.int64, len(firsts)))):
                first = firsts[int(keys[row])]
                if first is None:
                    firsts[int(keys[row])] = place + int(row)
                else:
                    originals[row] = first
            place += len(ids)
            values = pa.array(originals, pa.int64(), mask=originals < 0)
            columns = [*ENTRY_SCHEMA.names, "status", "reason", "hash", "size"]
            yield table.select(columns).append_column("duplicate_of", values)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The encoded bytes, each row group read once a call."""
        images = self._shards.read(uris, rows)
        for place, image in enumerate(images):
            if isinstance(image, UnreadableImage):
                reason = self._reasons.get((uris[place], int(rows[place])))
                images[place] = image if reason is None else UnreadableImage(reason)
        return images

    def _first_places(self, split: Split) -> dict[int, int | None]:
        """Id of each content that occurs more than once -> None, for its first place in a split."""
        key = self._key(split)
        found: set[int] = set()
        for table in self._directories[key].parts(self._catalogs[key], ["duplicate_of"]):
            found.update(pc.unique(table["duplicate_of"].drop_null()).to_pylist())
        return dict.fromkeys(found)

    def _drawn(self, catalog: Catalog, index: int) -> np.ndarray:
        """Which rows of a part are held out."""
        part = catalog.parts[index]
        if part.labeled == 0:
            return np.zeros(part.rows, bool)
        ids = np.arange(part.first_id, part.first_id + part.rows)
        drawn = uniform(self.spec.seed, 0, Stream.SPLIT, ids, 1)[:, 0] < self.spec.test_fraction
        if part.labeled < part.rows:
            (table,) = self._directories["pool"].parts(
                catalog, ["label"], part.first_id, part.first_id + part.rows
            )
            drawn &= table["label"].is_valid().to_numpy()
        return drawn

    def _listing(self, split: Split, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The manifest with uri and row as this source reads them."""
        key = self._key(split)
        directory, catalog = self._directories[key], self._catalogs[key]
        for table in directory.parts(catalog, columns):
            packed = pc.greater_equal(table["row"], 0)
            uris = pc.binary_join_element_wise(directory.place.uri.rstrip("/"), table["uri"], "/")
            table = table.set_column(1, "uri", pc.if_else(packed, uris, table["origin"]))
            table = table.set_column(2, "row", pc.if_else(packed, table["row"], table["origin_row"]))
            yield table.set_column(3, "label", self._numbered(key, table["label"]))

    def _key(self, split: Split) -> Split:
        """The directory that a split is in."""
        return split if self.has_test_split else "pool"

    def _numbered(self, split: Split, labels: pa.ChunkedArray) -> pa.ChunkedArray:
        """Labels as the pool numbers its classes, by the names of those that the test images have."""
        own, names = self._catalogs[split].class_names, self._catalogs["pool"].class_names
        if own is None or names is None or own == names:
            return labels
        unknown = [name for name in own if name not in names]
        used = {own[label] for label in pc.unique(labels.drop_null()).to_pylist()}
        if used.intersection(unknown):
            raise PoolError(
                f"data.test_path {self.spec.test_path!r}: class {unknown[0]!r} is none of the pool's classes "
                f"{', '.join(names)}; give test images of those"
            )
        numbers = {name: number for number, name in enumerate(names)}
        return pc.take(pa.array([numbers.get(name) for name in own], pa.int64()), labels)

    @cached_property
    def _catalogs(self) -> dict[Split, Catalog]:
        return {split: directory.catalog() for split, directory in self._directories.items()}

    @cached_property
    def _reasons(self) -> dict[tuple[str, int], str]:
        """Why images were set aside, by where they came from."""
        found: dict[tuple[str, int], str] = {}
        for split, directory in self._directories.items():
            for table in directory.parts(self._catalogs[split], ["row", "reason", "origin", "origin_row"]):
                aside = table.filter(pc.less(table["row"], 0))
                origins = zip(aside["origin"].to_pylist(), aside["origin_row"].to_pylist(), strict=True)
                found.update(zip(origins, aside["reason"].to_pylist(), strict=True))
        return found


class _Manifest(PackedPool):
    """The same listing with all columns of the manifest."""

    def __init__(self, pool: PackedPool) -> None:
        super().__init__(pool.spec)
        self._catalogs = pool._catalogs

    def entries(self, split: Split) -> Iterator[pa.Table]:
        return self._listing(split)


def _content_keys(table: pa.Table) -> np.ndarray:
    """The lowest id of the pool with the same content, itself included, int64 (n,)."""
    return pc.coalesce(table["duplicate_of"], table["sample_id"]).to_numpy()


def _inside(path: str, name: str) -> str:
    """A path or URI of what lies in a folder; a URI's options stay behind it."""
    folder, mark, options = path.partition("?") if "://" in path else (path, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{options}"

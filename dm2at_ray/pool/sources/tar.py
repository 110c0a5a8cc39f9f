"""WebDataset-style tar shards: an image and its label are members with the same key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import MAX_FILE_BYTES, side_by_side, store_error
from dm2at_ray.pool.location import Location, is_store_error, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources.base import Source, SourceSpec, Split, entry_table, required_path
from dm2at_ray.pool.sources.tar_index import DamagedTarError, damage_finding, tar_samples
from dm2at_ray.pool.sources.text_labels import clean_texts, text_classes, text_numbers

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_OPEN_FILES = 32
_CACHED_BYTES = 64 << 20  # of the shards' indices, per source object
# Local disks are read where the headers are; a store answers a megabyte about as soon as a header.
_READ_AHEAD, _READ_AHEAD_REMOTE = 8 << 10, 1 << 20
_INDEX_SCHEMA = pa.schema([("offset", pa.int64()), ("size", pa.int64()), ("label", pa.string())])
_DAMAGED = -1


class Tar(Source):
    """One ``.tar`` file, or all below a folder in the order of their paths, in no way unpacked.

    A sample is the members that follow each other under one key: ``a/1.jpg`` with ``a/1.cls`` (a class number
    or name), ``a/1.json`` (its field ``label_column``) or ``a/1.txt``. Entries are named
    ``shard.tar#offset+size``, so that a worker reads an image without any index; ``row`` is the sample's
    place in its shard. Listing reads headers and label members. Links have no bytes of their own and are set
    aside, as is one entry for all that lies behind a damaged header.
    """

    kind = "tar"

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._roots: dict[Split, Location] = {"pool": Location.of(required_path(spec))}
        if spec.test_path is not None:
            self._roots["test"] = Location.of(spec.test_path, "data.test_path")
        self.has_test_split = "test" in self._roots
        self._listed: dict[Split, list[str]] = {}
        self._files: LruCache[tuple[Split, str], pa.NativeFile] = LruCache(_OPEN_FILES)
        self._indices: LruCache[tuple[Split, str], pa.Table] = LruCache(
            _CACHED_BYTES, weigh=lambda index: index.nbytes
        )

    @cached_property
    def class_names(self) -> list[str] | None:  # type: ignore[override] # a cached property is one that is kept
        """The spec's names, else what the labels of the pool are, else those of the test images."""
        if self.spec.class_names is not None:
            return list(self.spec.class_names)
        if self.spec.label_column is None:
            return None
        for split, root in self._roots.items():
            labels = (self._index(split, path).column("label") for path in self._paths(split))
            try:
                names = text_classes(labels)
            except ValueError as error:
                raise self._label_error(root.uri, one_line(error)) from error
            if names:
                return names
        return None

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """Shard by shard in the order of their paths, each in its members' order."""
        for path in self._paths(split):
            uri = self._roots[split].child(path).uri
            index = self._index(split, path)
            offsets, sizes = index.column("offset").to_pylist(), index.column("size").to_pylist()
            try:
                labels = text_numbers(index.column("label").combine_chunks(), self.class_names or [])
            except ValueError as error:
                raise self._label_error(uri, one_line(error)) from error
            uris = [
                f"{uri}#{offset}+{'damaged' if size == _DAMAGED else size}"
                for offset, size in zip(offsets, sizes, strict=True)
            ]
            yield entry_table(uris, np.arange(len(uris)), labels)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """The members' bytes, read where they lie in their shards."""
        # Files are opened here: the cache is not for several threads, reading at a place is.
        places = [self._open_member(uri) for uri in uris]
        return side_by_side(_read_member, places)

    def _open_member(self, uri: str) -> tuple[pa.NativeFile, int, int, str] | UnreadableImage:
        shard, _, place = uri.rpartition("#")
        offset, _, size = place.partition("+")
        found = self._find(shard)
        if found is None:
            return UnreadableImage("not below data.path or data.test_path")
        if not offset.isdecimal() or not (size.isdecimal() or size == "damaged"):
            return UnreadableImage("no place in a tar shard")
        if size == "damaged":
            return damage_finding(int(offset))
        if int(size) > MAX_FILE_BYTES:
            return UnreadableImage(f"a file of {int(size):,} bytes is too long for an image")
        try:
            return self._files.get(found, self._open), int(offset), int(size), shard
        except FileNotFoundError:
            return UnreadableImage("no such shard")
        except OSError as error:
            if is_store_error(error):
                raise store_error(shard, error) from error
            return UnreadableImage(one_line(error))

    def _find(self, uri: str) -> tuple[Split, str] | None:
        for split, root in self._roots.items():
            path = root.resolve(uri)
            if path is not None:
                return split, path
        return None

    def _open(self, key: tuple[Split, str]) -> pa.NativeFile:
        split, path = key
        return self._roots[split].filesystem.open_input_file(path)

    def _index(self, split: Split, path: str) -> pa.Table:
        return self._indices.get((split, path), self._load_index)

    def _load_index(self, key: tuple[Split, str]) -> pa.Table:
        root, where = self._roots[key[0]], self._where(*key)
        ahead = _READ_AHEAD_REMOTE if root.is_remote else _READ_AHEAD
        offsets: list[int] = []
        sizes: list[int] = []
        labels: list[str | None] = []
        try:
            with self._open(key) as file:
                if file.read(8).startswith(_MAGIC):
                    raise _compressed(where)
                file.seek(0)
                try:
                    for sample in tar_samples(file, self.spec.label_column, ahead):
                        offsets.append(sample.offset)
                        sizes.append(sample.size)
                        labels.append(sample.label)
                except DamagedTarError as damage:
                    if damage.offset == 0:
                        raise PoolError(f"{where}: not a tar file; replace or remove it") from damage
                    offsets.append(damage.offset)
                    sizes.append(_DAMAGED)
                    labels.append(None)
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; replace or remove the file") from error
        texts = clean_texts(pa.array(labels, pa.string()))
        return pa.table([offsets, sizes, texts], schema=_INDEX_SCHEMA)

    def _paths(self, split: Split) -> list[str]:
        if split not in self._listed:
            self._listed[split] = self._list(split)
        return self._listed[split]

    def _list(self, split: Split) -> list[str]:
        root, where = self._roots[split], self._where(split, self._roots[split].uri)
        try:
            found = root.info().type
            if found == fs.FileType.File:
                return [root.path]
            all_paths = root.files() if found == fs.FileType.Directory else []
        except OSError as error:
            raise PoolError(f"{where}: {one_line(error)}; give a place that can be read") from error
        paths = [path for path in all_paths if path.endswith(SUFFIX)]
        if not paths:
            packed = [path for path in all_paths if path.endswith(COMPRESSED)]
            if packed:
                raise _compressed(self._where(split, packed[0]))
            what = "no such file or folder" if found == fs.FileType.NotFound else "no .tar files there"
            raise PoolError(f"{where}: {what}; give a .tar file or a folder of them")
        return paths

    def _where(self, split: Split, path: str) -> str:
        return f"data.{'path' if split == 'pool' else 'test_path'} {path!r}"

    def _label_error(self, uri: str, what: str) -> PoolError:
        return PoolError(
            f"data.label_column {self.spec.label_column!r}: {what}, in {uri!r}; mend the labels or "
            "data.class_names, or set null for a pool without labels"
        )


def _compressed(where: str) -> PoolError:
    return PoolError(
        f"{where}: compressed, so that nothing in it can be read by its place; unpack it to a plain .tar, "
        "for instance by gunzip (images are compressed already)"
    )


def _read_member(place: tuple[pa.NativeFile, int, int, str] | UnreadableImage) -> Raw:
    if isinstance(place, UnreadableImage):
        return place
    file, offset, size, shard = place
    try:
        data = file.read_at(size, offset)
    except OSError as error:
        if is_store_error(error):
            raise store_error(shard, error) from error
        return UnreadableImage(one_line(error))
    return data if len(data) == size else UnreadableImage("the tar shard ends within this image")

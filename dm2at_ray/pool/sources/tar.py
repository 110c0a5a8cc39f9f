"""WebDataset-style tar shards: an image and its label are members with the same key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.fetch import MAX_FILE_BYTES, side_by_side, store_error
from dm2at_ray.pool.location import is_store_error, one_line
from dm2at_ray.pool.lru import LruCache
from dm2at_ray.pool.sources.base import SourceSpec, Split
from dm2at_ray.pool.sources.labels import LabelKind, plain_labels
from dm2at_ray.pool.sources.shards import ShardedSource
from dm2at_ray.pool.sources.tar_index import DamagedTarError, damage_finding, tar_samples

SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_OPEN_FILES = 32
_CACHED_BYTES = 64 << 20  # of the shards' indices, per source object
# Local disks are read where the headers are; a store answers a megabyte about as soon as a header.
_READ_AHEAD, _READ_AHEAD_REMOTE = 8 << 10, 1 << 20
_INDEX_SCHEMA = pa.schema([("offset", pa.int64()), ("size", pa.int64()), ("label", pa.string())])
_DAMAGED = -1


class Tar(ShardedSource):
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
        self._files: LruCache[tuple[Split, str], pa.NativeFile] = LruCache(_OPEN_FILES)
        self._indices: LruCache[tuple[Split, str], pa.Table] = LruCache(
            _CACHED_BYTES, weigh=lambda index: index.nbytes
        )

    def list_shard(self, split: Split, path: str) -> Iterator[pa.Table]:
        """A shard's images in its members' order."""
        uri = self._roots[split].child(path).uri
        index = self._index(split, path)
        offsets, sizes = index["offset"].to_pylist(), index["size"].to_pylist()
        uris = [
            f"{uri}#{offset}+{'damaged' if size == _DAMAGED else size}"
            for offset, size in zip(offsets, sizes, strict=True)
        ]
        yield pa.table({"uri": pa.array(uris, pa.string()), "row": range(len(uris)), "label": index["label"]})

    def _shard_labels(self, split: Split, path: str) -> Iterator[pa.Array]:
        """A shard's labels."""
        yield from self._index(split, path)["label"].chunks

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
        texts = plain_labels(pa.array(labels, pa.string()), "text")
        return pa.table([offsets, sizes, texts], schema=_INDEX_SCHEMA)

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return (SUFFIX,)

    def _none_there(self, split: Split, found: fs.FileType, paths: list[str]) -> PoolError:
        packed = [path for path in paths if path.endswith(COMPRESSED)]
        if packed:
            return _compressed(self._where(split, packed[0]))
        what = "no such file or folder" if found == fs.FileType.NotFound else "no .tar files there"
        where = self._where(split, self._roots[split].uri)
        return PoolError(f"{where}: {what}; give a .tar file or a folder of them")

    @property
    def _label_kind(self) -> LabelKind:
        return "text"

    def _label_error(self, where: str, what: str) -> PoolError:
        return PoolError(
            f"data.label_column {self.spec.label_column!r}: {what}, in {where}; mend the labels or "
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

"""An addition to a pool directory in the works: what is packed already, and how it becomes valid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.errors import PoolError
from dm2at_ray.parquet import open_parquet
from dm2at_ray.pool.catalog import Catalog, Part, Shard
from dm2at_ray.pool.directory import BUILD_FOLDER, MANIFEST_SCHEMA, PoolDirectory
from dm2at_ray.pool.duplicates import find_duplicates
from dm2at_ray.pool.manifest import OK
from dm2at_ray.pool.pieces import Piece
from dm2at_ray.pool.sources.base import rebatched

REQUEST_FILE = f"{BUILD_FOLDER}/request.json"
_PIECE = re.compile(r"piece-(\d{5,})\.parquet")
_DIGEST = b"entries"


class Building:
    """The folder `build` of a pool directory.

    ::

        build/request.json               what is asked for, and the size of the pool that it adds to
        build/listing-0-00000.parquet    what a shard of a source lists, see `Listing`
        build/window-0-00000.json        mean size of the images of a window of a source, by which pieces are
                                         cut
        build/piece-00000.parquet        the manifest's rows of a shard that is whole; written after it

    Attributes:
        base: What the pool was before.
    """

    def __init__(self, directory: PoolDirectory, base: Catalog) -> None:
        self._directory = directory
        self.base = base
        self._whole = {
            int(match[1]) for match in map(_PIECE.fullmatch, directory.names(BUILD_FOLDER)) if match
        }

    @classmethod
    def begin(cls, directory: PoolDirectory, request: dict[str, Any], base: Catalog) -> Building:
        """Begin an addition, or go on with the one that was begun by the same request.

        Raises:
            PoolError: Another one was begun.
        """
        wanted = {"size_before": base.size, **request}
        begun = begun_request(directory)
        if begun is not None and begun["size_before"] != base.size:
            # It was done, all but for being cleared away.
            directory.delete(BUILD_FOLDER)
            begun = None
        if begun is not None and begun != wanted:
            fields = sorted(key for key in {*begun, *wanted} if begun.get(key) != wanted.get(key))
            raise PoolError(
                f"pool {directory.place.uri!r}: packing was begun with other arguments (other "
                f"{', '.join(fields).replace('_', ' ')}); give the same ones to go on, or delete its folder "
                f"{BUILD_FOLDER} to begin anew"
            )
        directory.write_json(REQUEST_FILE, wanted)
        return cls(directory, base)

    def mean_bytes(self, source: int, window: int) -> float | None:
        """Mean size of a window's images, as an earlier call noted it."""
        try:
            return float(self._directory.read_json(_window_file(source, window)))
        except FileNotFoundError:
            return None

    def note_mean_bytes(self, source: int, window: int, mean: float) -> None:
        """Note it, so that whoever goes on cuts at the same places."""
        self._directory.write_json(_window_file(source, window), mean)

    def shard(self, piece: int) -> int:
        """Index of a piece's shard."""
        return len(self.base.shards) + piece

    def is_whole(self, index: int, piece: Piece) -> bool:
        """Whether a piece is packed.

        Raises:
            PoolError: It is, but from other entries: the source has changed since.
        """
        if index not in self._whole:
            return False
        if self._metadata(index).get(_DIGEST) != piece.digest().encode():
            raise PoolError(
                f"pool {self._directory.place.uri!r}: the source lists other images than when packing was "
                f"begun; give it back as it was, or delete the folder {BUILD_FOLDER} to begin anew"
            )
        return True

    def finish(self, pieces: int, class_names: Sequence[str] | None, addition: dict[str, Any]) -> Catalog:
        """Find the duplicates, write the parts and the new catalog, and clear the folder.

        Args:
            pieces: How many there are; all of them are whole.
            class_names: Those of the pool, and behind them the new ones.
            addition: What the catalog says of it beside `first_id` and `size`.

        Raises:
            PoolError: The sources listed nothing.
        """
        first_id = self.base.size
        parts, shards = list(self.base.parts), list(self.base.shards)
        for rows in self._rows(pieces, ["sample_id", "row", "size"]):
            ok = int(pc.sum(pc.greater_equal(rows["row"], 0)).as_py())
            begin = shards[-1].first_id + shards[-1].ids if shards else 0
            shards.append(Shard(begin, rows.num_rows, ok, int(pc.sum(rows["size"]).as_py())))
        total = shards[-1].first_id + shards[-1].ids if shards else 0
        if total == first_id:
            raise PoolError("the sources list no images; give places that hold some")

        def hashes() -> Iterator[pa.Table]:
            yield from self._directory.parts(self.base, ["sample_id", "hash"])
            yield from self._rows(pieces, ["sample_id", "hash"])

        duplicates, firsts = find_duplicates(hashes, total, first_id)
        for table in rebatched(self._rows(pieces)):
            ids = table["sample_id"].to_numpy()
            assert ids[0] == first_id
            begin, end = np.searchsorted(duplicates, [ids[0], ids[-1] + 1])
            originals = np.full(len(ids), -1)
            originals[duplicates[begin:end] - ids[0]] = firsts[begin:end]
            column = MANIFEST_SCHEMA.get_field_index("duplicate_of")
            values = pa.array(originals, pa.int64(), mask=originals < 0)
            self._directory.write_part(
                len(parts), table.set_column(column, MANIFEST_SCHEMA.field(column), values)
            )
            labeled = len(ids) - table["label"].null_count
            rejected = len(ids) - int(pc.sum(pc.equal(table["status"], OK)).as_py())
            parts.append(Part(int(ids[0]), len(ids), labeled, rejected, int(end - begin)))
            first_id += len(ids)
        entry = {"first_id": self.base.size, "size": total - self.base.size, **addition}
        catalog = Catalog(
            None if class_names is None else tuple(class_names),
            self.base.image_size,
            self.base.channels,
            tuple(parts),
            tuple(shards),
            (*self.base.additions, entry),
        )
        self._directory.write_catalog(catalog)
        self.clear()
        return catalog

    def clear(self) -> None:
        """Delete the folder, and what writers that were killed left beside whole files."""
        for folder in ("", "manifest", "shards"):
            for name in self._directory.names(folder):
                if name.startswith(".") and name.endswith(".tmp"):
                    self._directory.delete(f"{folder}/{name}".lstrip("/"))
        self._directory.delete(BUILD_FOLDER)

    def _rows(self, pieces: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for index in range(pieces):
            yield self._directory.read_table(_piece_file(index), columns).replace_schema_metadata()

    def _metadata(self, index: int) -> dict[bytes, bytes]:
        place = self._directory.place
        with open_parquet(f"{place.path}/{_piece_file(index)}", filesystem=place.filesystem) as file:
            return file.schema_arrow.metadata or {}


def note_whole(directory: PoolDirectory, index: int, piece: Piece, rows: pa.Table) -> None:
    """Note the manifest's rows of a piece whose shard is written."""
    directory.write_table(_piece_file(index), rows.replace_schema_metadata({_DIGEST: piece.digest()}))


def begun_request(directory: PoolDirectory) -> dict[str, Any] | None:
    """What was asked for in an addition that was begun; None where there is none."""
    try:
        return directory.read_json(REQUEST_FILE)
    except FileNotFoundError:
        return None


def _window_file(source: int, window: int) -> str:
    return f"{BUILD_FOLDER}/window-{source}-{window:05d}.json"


def _piece_file(index: int) -> str:
    return f"{BUILD_FOLDER}/piece-{index:05d}.parquet"

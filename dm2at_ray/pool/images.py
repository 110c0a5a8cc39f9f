"""The pool as the stages use it: images and labels by sample id."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.decode import UnreadableImage, decode
from dm2at_ray.pool.manifest import OK, Manifest
from dm2at_ray.pool.sources import Source

UNKNOWN_LABEL = -1


class Pool:
    """Images and labels by sample id, read when they are asked for.

    Attributes:
        manifest: which ids there are, and where their images lie.
        source: where the images are.
        image_size: height and width of the images in pixels.
        channels: 1 or 3.
    """

    def __init__(self, manifest: Manifest, source: Source, image_size: int, channels: int) -> None:
        self.manifest = manifest
        self.source = source
        self.image_size = image_size
        self.channels = channels

    @classmethod
    def open(
        cls, filesystem: fs.FileSystem, manifest_dir: str, source: Source, image_size: int, channels: int
    ) -> Pool:
        """The pool whose manifest lies in ``manifest_dir``."""
        return cls(Manifest.open(filesystem, manifest_dir), source, image_size, channels)

    @property
    def size(self) -> int:
        """Number of sample ids, those set aside included."""
        return self.manifest.size

    def rejected_ids(self) -> np.ndarray:
        """Ids (r,) int64, ascending, of the images that were set aside."""
        return self.manifest.rejected(["sample_id"]).column("sample_id").to_numpy()

    def duplicate_ids(self) -> np.ndarray:
        """Ids (d,) int64, ascending, of the images that are there under a smaller id as well."""
        return self.manifest.duplicates().column("sample_id").to_numpy()

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Images of the sample ids (n,) int64, in their order.

        Returns:
            uint8 (n, H, W, C).

        Raises:
            PoolError: an image that was fine when the manifest was built can no longer be read.
            ValueError: an id was set aside, or there is none such.
        """
        table = self.manifest.rows(ids)
        if table.num_rows and not pc.all(pc.equal(table.column("status"), OK)).as_py():
            raise ValueError("ids that were set aside have no image")
        images = np.empty((table.num_rows, self.image_size, self.image_size, self.channels), dtype=np.uint8)
        raws = self.source.read(table.column("uri").to_pylist(), table.column("row").to_pylist())
        for place, raw in enumerate(raws):
            try:
                images[place] = decode(raw, self.image_size, self.channels)
            except UnreadableImage as unreadable:
                raise _lost_image(table.slice(place, 1), unreadable.reason) from unreadable
        return images

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """Class numbers (n,) int64 of the sample ids (n,) int64, in their order; -1 where unknown."""
        labels = self.manifest.rows(ids).column("label")
        return labels.fill_null(UNKNOWN_LABEL).to_numpy().astype(np.int64)


def _lost_image(entry: pa.Table, reason: str) -> PoolError:
    sample_id, uri, row = (entry.column(name)[0].as_py() for name in ("sample_id", "uri", "row"))
    return PoolError(
        f"sample {sample_id} ({uri!r}, row {row}) was readable when the pool was listed and is not now: "
        f"{reason}; restore it, or start a new run without it"
    )

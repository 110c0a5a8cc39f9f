"""The work of a search as tiles of pairs of rows, listed a chunk at a time on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Tiles start at multiples of this many rows, so that every row of words is read 16 bytes at a time.
ALIGN = 8

# Row tiles that share their columns before the next columns are taken: what the tiles running at one time
# read then fits the GPU's L2 cache many times over.
GROUP = 16

FIELDS = 6
"""int32 fields of a tile: x start, x begin, x end, y start, y begin, y end (rows; see `TileList.rows`)."""


@dataclass(frozen=True, eq=False)
class TileList:
    """All tiles of a list of pairs of row ranges, numbered, kept as bands of up to GROUP rows of tiles.

    Attributes:
        bands: (B, 7) int64 on the device: the six fields of a band's first tile, and its rows of tiles.
        first: (B,) int64 on the device: the number of each band's first tile.
        total: tiles altogether.
        shape: rows of x and rows of y of a tile, multiples of ALIGN.
    """

    bands: Tensor
    first: Tensor
    total: int
    shape: tuple[int, int]

    @classmethod
    def cut(
        cls, pairs: np.ndarray, shape: tuple[int, int], *, same: bool, device: torch.device | str
    ) -> TileList:
        """Cut pairs of row ranges into tiles.

        Args:
            pairs: (P, 4) integers: x_begin, x_end, y_begin, y_end.
            shape: rows of x and of y of a tile.
            same: x is y, so that a pair of equal ranges means what is above its diagonal.
            device: where the tiles are wanted.

        Examples:
            >>> tiles = TileList.cut(np.array([[0, 9, 20, 30]]), (8, 16), same=False, device="cpu")
            >>> tiles.rows(0, tiles.total).tolist()
            [[0, 0, 9, 16, 20, 30], [8, 0, 9, 16, 20, 30]]
        """
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 4)
        x_begin, x_end, y_begin, y_end = pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 2] < pairs[:, 3])].T
        x_start = x_begin // ALIGN * ALIGN
        high = -(-(x_end - x_start) // shape[0])  # rows of tiles
        bands = -(-high // GROUP)
        pair = np.repeat(np.arange(len(bands)), bands)
        number = np.arange(len(pair)) - np.repeat(np.cumsum(bands) - bands, bands)
        start = x_start[pair] + number * (GROUP * shape[0])
        # Above the diagonal a band's first column is that of its first row.
        diagonal = same & (x_begin == y_begin)
        y_start = np.where(diagonal[pair], start, y_begin[pair] // ALIGN * ALIGN)
        rows = np.minimum(GROUP, high[pair] - number * GROUP)
        tiles = rows * -(-(y_end[pair] - y_start) // shape[1])
        table = [start, x_begin[pair], x_end[pair], y_start, y_begin[pair], y_end[pair], rows]
        return cls(
            torch.from_numpy(np.stack(table, axis=1)).to(device),
            torch.from_numpy(np.cumsum(tiles) - tiles).to(device),
            int(tiles.sum()),
            shape,
        )

    def rows(self, start: int, count: int) -> Tensor:
        """Return (count, FIELDS) int32 tiles from number `start` on.

        A tile covers the rows [x start, x start + shape[0]) that lie in [x begin, x end), and so for y.
        """
        number = torch.arange(start, start + count, device=self.first.device)
        band = torch.searchsorted(self.first, number, right=True) - 1
        fields = self.bands[band]
        local = number - self.first[band]
        high = fields[:, FIELDS]
        fields[:, 0] += local % high * self.shape[0]
        fields[:, 3] += local // high * self.shape[1]
        return fields[:, :FIELDS].to(torch.int32)

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.pool import Source, SourceSpec, decode, open_source
from dm2at_ray.pool.content import content_hash
from dm2at_ray.pool.decode import Raw, UnreadableImage
from dm2at_ray.pool.packing import mean_bytes, pack
from dm2at_ray.pool.shard import ROW_GROUP_BYTES, ShardWriter
from dm2at_ray.pool.sources.base import Split, entry_table


class Made(Source):
    """Images made when they are read, and how many of them were asked for at once."""

    kind = "made"
    has_test_split = False
    class_names = ["a"]  # noqa: RUF012

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(SourceSpec(kind="made"))
        self.sizes = sizes
        self.asked: list[int] = []

    def entries(self, split: Split) -> Iterator[pa.Table]:
        yield entry_table(["x"] * len(self.sizes), np.arange(len(self.sizes)), None)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        self.asked.append(len(rows))
        return [bmp(row, self.sizes[row]) for row in rows]


def bmp(seed: int, size: int) -> bytes:
    """An uncompressed image of so many bytes, or a little less."""
    width = max(1, (size - 54) // 3 // 4 * 4 // 64)
    header = b"BM" + (54 + width * 64 * 3).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + width.to_bytes(4, "little") + (64).to_bytes(4, "little")
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    row_bytes = -(-width * 3 // 4) * 4
    return header + bytes([seed % 251]) * (row_bytes * 64)


def packed(source: Source, channels: int = 3, first_id: int = 100) -> tuple[pq.ParquetFile, pa.Table]:
    buffer = io.BytesIO()
    (entries,) = source.entries("pool")
    with ShardWriter(buffer) as writer:
        rows = pack(source, entries, first_id, 7, writer, channels, mean_bytes(source, entries))
    return pq.ParquetFile(io.BytesIO(buffer.getvalue())), rows


@pytest.mark.parametrize("kind", ["folder", "pixels"])
def test_pack__keeps_what_the_source_has(kind: str, folder: Path) -> None:
    source = open_source(
        SourceSpec(kind="image_folder", path=str(folder / "a"))
        if kind == "folder"
        else SourceSpec(kind="digits")
    )
    shard, rows = packed(source)
    (entries,) = [table for table in source.entries("pool") if table.num_rows]
    raws = source.read(entries["uri"].to_pylist(), entries["row"].to_pylist())
    images = shard.read()
    assert (
        images["sample_id"].to_pylist() == list(range(100, 100 + len(raws))) == rows["sample_id"].to_pylist()
    )
    assert rows["row"].to_pylist() == list(range(len(raws)))
    assert rows["hash"].to_pylist() == [content_hash(raw) for raw in raws]
    assert rows["size"].to_pylist() == [len(image) for image in images["image"].to_pylist()]
    assert images["label"].equals(rows["label"])
    assert rows["label"].equals(entries["label"])
    assert set(rows["uri"].to_pylist()) == {"shards/00007.parquet"}
    for raw, image in zip(raws, images["image"].to_pylist(), strict=True):
        if kind == "folder":
            assert image == raw
        else:
            assert np.array_equal(decode(image, 8, 1), decode(raw, 8, 1))


def test_pack__sets_aside_what_cannot_be_decoded(source: Source, folder: Path) -> None:
    (folder / "b" / "0.png").write_bytes(b"")
    tables = [table for table in source.entries("pool") if table.num_rows]
    buffer = io.BytesIO()
    with ShardWriter(buffer) as writer:
        rows = pack(source, pa.concat_tables(tables), 0, 0, writer).to_pylist()
    aside = {row["sample_id"]: row for row in rows if row["status"] == "rejected"}
    assert {sample_id: row["reason"] for sample_id, row in aside.items()} == {
        4: "empty file",
        6: "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image",
    }
    assert all((r["uri"], r["row"], r["size"], r["hash"]) == ("", -1, 0, None) for r in aside.values())
    assert aside[6]["origin"] == f"{folder}/b/2.png"
    assert [row["row"] for row in rows if row["status"] == "ok"] == [0, 1, 2, 3, 4, 5]
    assert pq.read_table(buffer)["sample_id"].to_pylist() == [0, 1, 2, 3, 5, 7]


def test_pack__pixels_that_no_png_holds_are_set_aside() -> None:
    class Deep(Made):
        def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
            images = [np.zeros((8, 8, 5), np.uint8), UnreadableImage("gone")]
            return [images[row] for row in rows]

    _, rows = packed(Deep([1, 1]), 5)
    assert [reason.split(":")[0] for reason in rows["reason"].to_pylist()] == [
        "uint8 pixels of shape (8, 8, 5)",
        "gone",
    ]


def test_pack__row_groups_of_4_mib_however_many_are_read_at_once() -> None:
    source = Made([100_000] * 200)
    (entries,) = source.entries("pool")
    files = []
    for expected in (1.0, 1e9):
        buffer = io.BytesIO()
        with ShardWriter(buffer) as writer:
            pack(source, entries, 0, 0, writer, 3, expected)
        files.append(buffer.getvalue())
    assert files[0] == files[1]
    metadata = pq.ParquetFile(io.BytesIO(files[0])).metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    assert all(0 <= group.total_byte_size - ROW_GROUP_BYTES < 200_000 for group in groups[:-1])
    assert len(groups) == 5


def test_pack__reads_no_more_at_once_than_fits() -> None:
    source = Made([1_000_000] * 24)
    packed(source)
    assert max(source.asked) == 4


def test_pack__memory_stays_as_the_shard_grows() -> None:
    def peak(images: int) -> int:
        source = Made([200_000] * images)
        (entries,) = source.entries("pool")

        class Nowhere(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: bytes) -> int:  # type: ignore[override]
                return len(data)

        tracemalloc.start()
        with ShardWriter(Nowhere()) as writer:
            pack(source, entries, 0, 0, writer, 3, 200_000)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(30)
    small, large = peak(100), peak(400)
    # 20 and 80 MB of images; the rows of the manifest are all that grows.
    assert large < small + 2_000_000
    assert large < 5 * ROW_GROUP_BYTES


def test_mean_bytes__of_samples() -> None:
    source = Made([100_000] * 5_000)
    (entries,) = source.entries("pool")
    assert mean_bytes(source, entries) == pytest.approx(100_000, rel=0.05)
    assert sum(source.asked) == 32


def test_mean_bytes__reads_few_of_few() -> None:
    source = Made([100_000] * 10)
    (entries,) = source.entries("pool")
    assert mean_bytes(source, entries) == pytest.approx(100_000, rel=0.05)
    assert sum(source.asked) <= 4

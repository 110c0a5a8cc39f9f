"""A few of a round's adversarial twins, out of files that hold all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dm2at_ray.parquet import open_parquet
from dm2at_ray.store.files import Files

FOLDER = "adversarial"
COLUMNS = ["sample_id", "predicted_label", "image"]
_READERS = 16
_ROWS_AT_ONCE = 16
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class TwinGroup:
    """A row group of twins.

    Attributes:
        part: Name of its file.
        number: Of the row group in it.
        least: The least sample id in it.
        largest: The largest one.
    """

    part: str
    number: int
    least: int
    largest: int


def twin_groups(round_files: Files) -> list[TwinGroup]:
    """Where the twins of a round lie; reads the files' footers only.

    Args:
        round_files: The round's folder.
    """
    files = round_files.below(FOLDER)
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda name: _groups(files, name), files.names())
        return [group for groups in found for group in groups]


def read_twins(round_files: Files, groups: Sequence[TwinGroup], sample_ids: Iterable[int]) -> pa.Table | None:
    """The twins of some samples, a few rows in memory at a time.

    Args:
        round_files: The round's folder.
        groups: As `twin_groups` has them.
        sample_ids: Samples to look for; those without a twin have no row.

    Returns:
        Columns sample_id, predicted_label, image (uint8 tensor H, W, C); None where none has a twin.
    """
    files = round_files.below(FOLDER)
    wanted = np.fromiter(sample_ids, np.int64)
    found = []
    for group in groups:
        inside = wanted[(wanted >= group.least) & (wanted <= group.largest)]
        if len(inside):
            found += _read(files, group, inside)
    return pa.concat_tables(found) if found else None


def rows_of_a_megabyte(twins: pa.Table) -> int:
    """Rows of a table of twins that take about a megabyte, at least one.

    Examples:
        >>> rows_of_a_megabyte(pa.table({"image": [bytes(1 << 18)] * 10}))
        3
    """
    return max(1, (1 << 20) * twins.num_rows // max(1, twins.nbytes))


def _groups(files: Files, name: str) -> list[TwinGroup]:
    with files.filesystem.open_input_file(files.path(name)) as source, open_parquet(source) as file:
        column = file.schema_arrow.get_field_index("sample_id")
        groups = []
        for number in range(file.num_row_groups):
            known = file.metadata.row_group(number).column(column).statistics
            everything = np.iinfo(np.int64)
            least, largest = (known.min, known.max) if known else (everything.min, everything.max)
            groups.append(TwinGroup(name, number, least, largest))
        return groups


def _read(files: Files, group: TwinGroup, wanted: np.ndarray) -> list[pa.Table]:
    """The rows of a row group that are wanted."""
    with (
        files.filesystem.open_input_file(files.path(group.part)) as source,
        # With a buffer the images are read page by page, not the whole column at once.
        open_parquet(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
    ):
        ids = file.read_row_group(group.number, columns=["sample_id"])["sample_id"].to_numpy()
        last = np.flatnonzero(np.isin(ids, wanted))[-1:]
        return [] if not len(last) else list(_rows(file, group.number, wanted, int(last[0])))


def _rows(file: pq.ParquetFile, number: int, wanted: np.ndarray, last: int) -> Iterable[pa.Table]:
    start = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[number], columns=COLUMNS):
        table = pa.table(batch)
        chosen = np.isin(table["sample_id"].to_numpy(), wanted)
        if chosen.any():
            # Taken, not sliced: a slice would keep all the rows beside it in memory.
            yield table.take(np.flatnonzero(chosen))
        start += table.num_rows
        if start > last:
            return

"""The log of labels that people gave: immutable files, one for each import."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.errors import RunError
from dm2at_ray.store import RunDirectory

FOLDER = "labels"
GIVEN_SCHEMA = pa.schema([("sample_id", pa.int64()), ("label", pa.string()), ("round", pa.int32())])
FILE_SCHEMA = pa.schema(
    [*GIVEN_SCHEMA, ("source", pa.string()), ("time", pa.timestamp("us", tz="UTC"))],
)
RECORDS_SCHEMA = FILE_SCHEMA.append(pa.field("file", pa.string()))
_FILE_NAME = re.compile(r"(\d{20})-[0-9a-f]{32}\.parquet")
_MARK_NAME = re.compile(r"accepted-(\d{4,})\.json")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Object stores answer a file in tens of milliseconds: reads wait for each other's answers, not in a row.
_READERS = 16


class LabelBook:
    """What people said of the samples of a run, all of it, in order.

    Every import adds one file, `labels/<time>-<uuid>.parquet`, that is written whole and never touched again;
    so any number of importers on any machines lose nothing of each other. The label that counts is a sample's
    last record by (time, file name). A null label says that a person could not tell.

    Files never change, so what was read is kept: looking again costs a listing and the new files. A first
    look takes about half a millisecond a file on a local disk, and the whole log is held in memory, about
    200 bytes a record.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._files = run.files.below(FOLDER)
        self._read: dict[str, pa.Table] = {}

    def records(self) -> pa.Table:
        """The whole log in the order that counts (`RECORDS_SCHEMA`).

        Raises:
            RunError: A file of it cannot be read.
        """
        names = self._names()
        unread = [name for name in names if name not in self._read]
        with ThreadPoolExecutor(_READERS) as readers:
            self._read.update(zip(unread, readers.map(self._read_file, unread), strict=True))
        tables = [self._read[name] for name in names]
        return pa.concat_tables(tables).combine_chunks() if tables else RECORDS_SCHEMA.empty_table()

    def effective(self, sample_ids: Sequence[int] | np.ndarray | None = None) -> pa.Table:
        """The record that counts of each sample (`RECORDS_SCHEMA`), by ascending sample id.

        Args:
            sample_ids: Samples to look for, all that have a record if left out; those without have no row.
        """
        records = self.records()
        ids = records["sample_id"].to_numpy()
        found, from_the_end = np.unique(ids[::-1], return_index=True)
        places = len(ids) - 1 - from_the_end
        if sample_ids is not None:
            places = places[np.isin(found, np.asarray(sample_ids, dtype=np.int64))]
        return records.take(places)

    def differing(self, given: pa.Table) -> pa.Table:
        """The rows of `given` (sample_id, label: string or null) that say another thing than what counts.

        A sample without a record differs whatever is said of it.
        """
        records = self.effective(given["sample_id"].to_numpy())
        known = dict(zip(records["sample_id"].to_pylist(), records["label"].to_pylist(), strict=True))
        # A null label is a word of its own, other than no record at all.
        differs = [
            sample_id not in known or known[sample_id] != label
            for sample_id, label in zip(
                given["sample_id"].to_pylist(), given["label"].to_pylist(), strict=True
            )
        ]
        return given.filter(pa.array(differs, pa.bool_()))

    def append(self, table: pa.Table, source: str, now: datetime | None = None) -> str | None:
        """Add to the log what is said for the first time or differs from what counts so far.

        Args:
            table: Columns sample_id (each id once), label (the class's name; null for "cannot tell") and
                round (in which the sample was asked for).
            source: Who said so: a person, or a file; a column `source` of the table says it row by row.
            now: The clock; this machine's if left out. The record's time is later than any that is there,
                whatever the clock says: a correction counts also where the earlier label came from a machine
                whose clock is ahead.

        Returns:
            Name of the new file; None where nothing differs and so nothing was written.
        """
        sources = (
            table["source"]
            if "source" in table.column_names
            else pa.array([source] * table.num_rows, pa.string())
        )
        given = table.select(GIVEN_SCHEMA.names).cast(GIVEN_SCHEMA)
        given = given.append_column("source", sources)
        if pc.count_distinct(given["sample_id"]).as_py() != given.num_rows:
            raise ValueError("a sample id is given twice")
        new = self.differing(given)
        if new.num_rows == 0:
            return None
        newest = max(map(time_of, self._names()), default=0)
        return self.write(new, max(microseconds(now or datetime.now(timezone.utc)), newest + 1))

    def write(self, table: pa.Table, moment: int) -> str:
        """Add a file to the log, whatever it says: `append` is for those who have not looked what differs.

        Args:
            table: Columns sample_id (each id once), label, round and source, as `FILE_SCHEMA` has them.
            moment: Its time in microseconds since 1970: later than that of every file which it changes.

        Returns:
            Name of the file, which is on disk.
        """
        times = pa.array([moment] * table.num_rows, pa.int64()).cast(FILE_SCHEMA.field("time").type)
        name = f"{moment:020d}-{uuid.uuid4().hex}.parquet"
        self._files.write_table(name, pa.table([*table.columns, times], schema=FILE_SCHEMA))
        return name

    def each_name(self) -> Iterator[str]:
        """Names of the log's files and of the marks beside them, in any order."""
        return self._files.each_name()

    def read(self, name: str) -> Iterator[pa.RecordBatch]:
        """Read one file of the log (`FILE_SCHEMA`) some rows at a time.

        Raises:
            RunError: It cannot be read.
        """
        try:
            for batch in self._files.read_batches(name, FILE_SCHEMA.names):
                yield batch.select(FILE_SCHEMA.names).cast(FILE_SCHEMA)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(name, error) from error

    def accept_partial(self, round_index: int, source: str) -> None:
        """Leave the mark that the labels there are enough for this round."""
        now = datetime.now(timezone.utc).isoformat()
        self._files.write_json(_mark_name(round_index), {"round": round_index, "source": source, "time": now})

    def is_accepted(self, round_index: int) -> bool:
        """Whether somebody said that the labels there are enough for this round."""
        return self._files.exists(_mark_name(round_index))

    def _names(self) -> list[str]:
        """The log's files in order: their names begin with their time."""
        return [name for name in self._files.names() if is_file_of_log(name)]

    def _read_file(self, name: str) -> pa.Table:
        try:
            table = self._files.read_table(name).select(FILE_SCHEMA.names).cast(FILE_SCHEMA)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(name, error) from error
        return table.append_column("file", pa.array([name] * table.num_rows, pa.string()))

    def _damaged(self, name: str, error: Exception) -> RunError:
        return RunError(
            f"labels {self._files.path(name)}: {' '.join(str(error).split())}; restore the file, or move "
            "it away and import its labels again"
        )


def is_file_of_log(name: str) -> bool:
    """Whether a name is that of a file of labels; their order is that of their names."""
    return _FILE_NAME.fullmatch(name) is not None


def round_of_mark(name: str) -> int | None:
    """The round whose labels a mark says to be enough; None where the name is that of something else.

    Examples:
        >>> round_of_mark("accepted-0003.json"), round_of_mark("notes.txt")
        (3, None)
    """
    found = _MARK_NAME.fullmatch(name)
    return int(found.group(1)) if found else None


def time_of(name: str) -> int:
    """When a file of the log was written, in microseconds since 1970."""
    return int(name[:20])


def microseconds(moment: datetime) -> int:
    """A time as microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _mark_name(round_index: int) -> str:
    return f"accepted-{round_index:04d}.json"

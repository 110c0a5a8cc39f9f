"""Before round 0: list the source, read every image once, and give each its sample id in the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pyarrow as pa
import ray

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Manifest, SourceSpec, check_part, open_source, part_name
from dm2at_ray.pool.manifest import DUPLICATES, PART_ROWS, part_of_checked, rows_of_part
from dm2at_ray.pool.sources.base import Split
from dm2at_ray.stages.context import Progress
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files

SLICE_ROWS = 4096
"""Images that one task reads."""

PARTS_AT_ONCE = 4
"""Parts of the manifest in the works, so that a listing of any length is never held whole."""


@dataclass(frozen=True)
class SplitSummary:
    """How many images a split has.

    Attributes:
        size: Sample ids, those set aside included.
        rejected: Images set aside because they cannot be read.
        labeled: Readable images whose label the source knows.
        duplicates: Images that are there under a smaller id as well, and are never asked for.
    """

    size: int
    rejected: int
    labeled: int
    duplicates: int = 0


class TooManyRejectsError(PoolError):
    """More images cannot be read than the run may set aside.

    Args:
        words: What to tell the user.
        summary: The counts.
    """

    def __init__(self, words: str, summary: SplitSummary) -> None:
        super().__init__(words)
        self.summary = summary


def summary_of(run: RunDirectory, split: Split) -> SplitSummary | None:
    """The summary of a manifest that is complete; None while there is none."""
    files = run.files.below(split)
    return SplitSummary(**files.read_json("summary.json")) if files.exists("summary.json") else None


def has_grown(source: SourceSpec, summary: SplitSummary) -> bool:
    """Whether a source that may be added to has more images for the pool than its manifest."""
    count = open_source(source).count("pool")
    return count is not None and count > summary.size


def build_manifest(
    run: RunDirectory,
    source: SourceSpec,
    split: Split,
    max_rejected_fraction: float,
    progress: Progress,
    total: int,
) -> SplitSummary:
    """Write the manifest of a split, go on with one that was begun, or add to it what its source has got.

    Args:
        run: The run directory.
        source: Where the images are, with `image_size` and `channels` resolved.
        split: `pool` or `test`.
        max_rejected_fraction: The largest share of images that may be set aside.
        progress: Told of every part.
        total: Images expected, for the progress.

    Returns:
        The counts.

    Raises:
        TooManyRejectsError: More images than that cannot be read.
    """
    files = run.manifest_files(split)
    done = 0
    parts: list[tuple[int, ray.ObjectRef]] = []

    def finish() -> None:
        nonlocal done
        rows, ref = parts.pop(0)
        ray.get(ref)
        done += rows
        progress(done, total)

    opened = open_source(source)
    checked = opened.checked(split)
    for index, table in enumerate(checked or opened.tables(split)):
        if rows_of_part(files.filesystem, files.path(part_name(index))) != table.num_rows:
            start = _start_part if checked is None else _start_checked_part
            parts.append((table.num_rows, start(files, source, table, index)))
        else:
            done += table.num_rows
        if len(parts) >= PARTS_AT_ONCE:
            finish()
    while parts:
        finish()
    manifest = Manifest.open(files.filesystem, files.root)
    counts, duplicates = manifest.counts(), ray.get(_write_duplicates.remote(files))
    summary = SplitSummary(counts.total, counts.rejected, counts.labeled, duplicates)
    if summary.rejected > max_rejected_fraction * summary.size:
        raise _too_many_rejected(summary, manifest, split, max_rejected_fraction)
    run.files.below(split).write_json("summary.json", asdict(summary))
    return summary


def _start_part(files: Files, source: SourceSpec, table: pa.Table, index: int) -> ray.ObjectRef:
    slices = [
        _check_slice.remote(source, table.slice(begin, SLICE_ROWS), index * PART_ROWS + begin)
        for begin in range(0, table.num_rows, SLICE_ROWS)
    ]
    return _write_part.remote(files, part_name(index), *slices)


def _start_checked_part(files: Files, _source: SourceSpec, table: pa.Table, index: int) -> ray.ObjectRef:
    return _write_part.remote(files, part_name(index), part_of_checked(table, index * PART_ROWS))


@ray.remote(max_retries=-1)
def _check_slice(source: SourceSpec, table: pa.Table, first_id: int) -> pa.Table:
    assert source.image_size is not None
    assert source.channels is not None
    return check_part(open_source(source), table, first_id, source.image_size, source.channels)


@ray.remote(max_retries=-1)
def _write_part(files: Files, name: str, *slices: pa.Table) -> None:
    files.write_table(name, pa.concat_tables(slices))


@ray.remote(max_retries=-1)
def _write_duplicates(files: Files) -> int:
    found = Manifest.open(files.filesystem, files.root).find_duplicates()
    files.write_table(DUPLICATES, found)
    return len(found)


def _too_many_rejected(
    summary: SplitSummary, manifest: Manifest, split: Split, max_rejected_fraction: float
) -> TooManyRejectsError:
    first = manifest.rejected().slice(0, 1).to_pylist()[0]
    share = summary.rejected / summary.size
    return TooManyRejectsError(
        f"data.max_rejected_fraction = {max_rejected_fraction}: {summary.rejected:,} of the {summary.size:,} "
        f"images of the {split} ({share:.1%}) cannot be read, such as {first['uri']} ({first['reason']}); "
        "mend them, or raise the fraction to go on without them",
        summary,
    )

"""`dm2at labels import`: what people answered, checked line by line, into the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.labeling.checks import KINDS, REFUSED, WRITTEN, Check, Line, sample_number
from dm2at_ray.labeling.formats import FORMATS, Answer, detect
from dm2at_ray.labeling.formats.base import place_text
from dm2at_ray.labeling.tasks import awaiting_round, image_places, known_classes, label_names
from dm2at_ray.pool import Manifest
from dm2at_ray.pool.location import one_line
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri


@dataclass
class ImportReport:
    """What an import did, or would have done.

    Attributes:
        lines: Of all files, in order.
        written: Name of the file in the log; None where nothing was written.
        accepted: The round that was accepted with the labels that are there; None for none.
        round: The round that awaits labels; None where none does.
        asked: How many samples that round asks for.
        answered: How many of them have an answer now, "cannot tell" included.
        missing: Those without, best query first.
    """

    lines: list[Line] = field(default_factory=list)
    written: str | None = None
    accepted: int | None = None
    round: int | None = None
    asked: int = 0
    answered: int = 0
    missing: list[int] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Line]:
        """The lines of some kinds."""
        return [line for line in self.lines if line.kind in kinds]

    @property
    def refused(self) -> list[Line]:
        """The lines that are to be mended."""
        return self.of(*REFUSED)

    def counts(self) -> dict[str, int]:
        """Lines by kind, in the order of `KINDS`; kinds without a line are left out."""
        found = Counter(line.kind for line in self.lines)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> dict[str, Any]:
        """As plain values; of the lines, those that were written or refused."""
        return {
            "counts": {kind: self.counts().get(kind, 0) for kind in KINDS},
            "written": self.written,
            "accepted": self.accepted,
            "round": self.round,
            "asked": self.asked,
            "answered": self.answered,
            "missing": self.missing,
            "lines": [vars(line) for line in self.of(*WRITTEN, *REFUSED)],
        }


def import_labels(
    run: RunDirectory,
    files: Sequence[str],
    *,
    format_name: str = "auto",
    source: str | None = None,
    add_classes: Sequence[str] = (),
    keep_good: bool = False,
    accept_partial: bool = False,
) -> ImportReport:
    """Check files of answers and add what is new in them to the run's log, in one piece or not at all.

    Nothing is written where a line is refused, unless `keep_good`. Importing again changes nothing. Two
    imports at once, or one while the run is at work, lose nothing of each other.

    Args:
        run: The run directory.
        files: Paths or URIs.
        format_name: A key of `FORMATS`, or `auto` to go by what is in each file.
        source: Who labeled; the name that the file tells, else the file's own, if left out.
        add_classes: Names of classes that the run does not know yet: labels may name them.
        keep_good: Import the other lines where some are refused.
        accept_partial: The labels that are there then are enough for the round that awaits them.

    Returns:
        What became of each line.

    Raises:
        LabelError: A file cannot be read, or there is no label to go on with.
    """
    answers = [(name, answer) for name in files for answer in read_answers(name, format_name)]
    book = LabelBook(run)
    report = ImportReport(_check(run, book, answers, source, add_classes))
    if not report.refused or keep_good:
        report.written = _write(run, book, report)
    _look_at_round(run, book, report)
    if accept_partial and (keep_good or not report.refused):
        if report.round is None:
            raise LabelError("--accept-partial: no round awaits labels now")
        if report.answered == 0:
            raise LabelError(f"--accept-partial: round {report.round} has no label at all to go on with")
        book.accept_partial(report.round, source or "dm2at labels import")
        report.accepted = report.round
    return report


def read_answers(name: str, format_name: str = "auto") -> list[Answer]:
    """The answers in a file.

    Raises:
        LabelError: There is none, or it is of another format.
    """
    folder, _, base = absolute_uri(name).rpartition("/")
    try:
        data = Files.at(folder or "/").read_bytes(base)
        return FORMATS[detect(data) if format_name == "auto" else format_name].read(data)
    except FileNotFoundError:
        raise LabelError(f"{name}: no such file; give a file of labels") from None
    except OSError as error:
        raise LabelError(f"{name}: {one_line(error)}; give a file of labels") from None
    except LabelError as error:
        raise LabelError(f"{name}: {error}") from None


def asked_samples(run: RunDirectory) -> dict[int, int]:
    """Every sample that was ever asked for -> the round that did."""
    return {
        int(sample): round_.index
        for round_ in run.rounds()
        if round_.has_queries
        for sample in round_.query_ids()
    }


def _check(
    run: RunDirectory,
    book: LabelBook,
    answers: Sequence[tuple[str, Answer]],
    source: str | None,
    add_classes: Sequence[str],
) -> list[Line]:
    """What becomes of each answer; nothing is written."""
    asked = asked_samples(run)
    check = Check(
        [*known_classes(run, book), *add_classes],
        {sample: place_text(*place) for sample, place in image_places(run, asked).items()},
        _pool_size(run),
        label_names(run, asked, book),
    )
    for file, answer in answers:
        check.note(file, answer)
    lines = []
    for file, answer in answers:
        kind, about = check.verdict(answer)
        by = source or answer.by or file.rsplit("/", 1)[-1]
        lines.append(Line(kind, file, answer.where, answer.sample, check.label(answer), about, by))
    return lines


def _write(run: RunDirectory, book: LabelBook, report: ImportReport) -> str | None:
    """Add the lines that say something new to the log; the name of its new file."""
    lines = report.of(*WRITTEN)
    asked = asked_samples(run)
    samples = [sample_number(line.sample) for line in lines]
    table = pa.table(
        {
            "sample_id": pa.array(samples, pa.int64()),
            "label": pa.array([line.label for line in lines], pa.string()),
            "round": pa.array([asked[sample] for sample in samples if sample is not None], pa.int32()),
            "source": pa.array([line.by for line in lines], pa.string()),
        }
    )
    return book.append(table, "")


def _look_at_round(run: RunDirectory, book: LabelBook, report: ImportReport) -> None:
    """Tell how far the round is that awaits labels."""
    round_ = awaiting_round(run)
    if round_ is None:
        return
    ids = round_.query_ids()
    answered = set(book.effective(ids)["sample_id"].to_pylist())
    report.round, report.asked = round_.index, len(ids)
    report.missing = [int(sample) for sample in ids if int(sample) not in answered]
    report.answered = report.asked - len(report.missing)


def _pool_size(run: RunDirectory) -> int:
    files = run.manifest_files("pool")
    return Manifest.open(files.filesystem, files.root).size

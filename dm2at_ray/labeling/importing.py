"""`dm2at labels import`: what people answered, checked line by line, into the log."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.labeling.formats import CANNOT_TELL, FORMATS, Answer, detect
from dm2at_ray.labeling.formats.base import place_text
from dm2at_ray.labeling.tasks import awaiting_round, image_places, known_classes, label_names
from dm2at_ray.pool import Manifest
from dm2at_ray.pool.location import one_line
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.uri import absolute_uri

NEW, SKIPPED, CORRECTION, SAME, REPEATED, OPEN = (
    "new",
    "skipped",
    "correction",
    "same",
    "repeated",
    "open",
)
UNKNOWN_SAMPLE, NOT_ASKED, OTHER_IMAGE, UNKNOWN_CLASS, CONFLICT = (
    "unknown_sample",
    "not_asked",
    "other_image",
    "unknown_class",
    "conflict",
)
KINDS = {
    NEW: "new",
    SKIPPED: "cannot tell",
    CORRECTION: "corrected",
    SAME: "as before",
    REPEATED: "repeated in the files",
    OPEN: "left open",
    UNKNOWN_SAMPLE: "refused: no such sample",
    NOT_ASKED: "refused: never asked for",
    OTHER_IMAGE: "refused: another image than the run has under this id",
    UNKNOWN_CLASS: "refused: no such class",
    CONFLICT: "refused: different labels for one sample",
}
"""What can become of a line -> in words; the last five are to be mended."""
REFUSED = (UNKNOWN_SAMPLE, NOT_ASKED, OTHER_IMAGE, UNKNOWN_CLASS, CONFLICT)
WRITTEN = (NEW, SKIPPED, CORRECTION)
_NAMES_SHOWN = 20
_SAMPLE_ID = re.compile(r"(\d{1,18})(?:\.0*)?")


@dataclass(frozen=True)
class Line:
    """What became of one line of a file.

    Attributes:
        kind: A key of `KINDS`.
        file: The file.
        where: The place in it.
        sample: The sample's id as the file has it.
        label: The label there; None for "cannot tell", or where it is left open.
        about: What else is to be said: the earlier label, the mend.
        by: Who said it.
    """

    kind: str
    file: str
    where: str
    sample: str
    label: str | None
    about: str
    by: str

    def text(self) -> str:
        """For a person, on one line."""
        said = "" if self.kind == OPEN else f" {self.label or CANNOT_TELL!r}"
        return f"{self.file}, {self.where}: sample {self.sample}{said}" + (self.about and f": {self.about}")


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


def sample_number(text: str) -> int | None:
    """A sample id as a file has it, also as spreadsheets write integers; None where it is none.

    Examples:
        >>> sample_number("12"), sample_number("12.0"), sample_number("cat")
        (12, 12, None)
    """
    found = _SAMPLE_ID.fullmatch(text)
    return int(found.group(1)) if found else None


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
    check = _Check(
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


class _Check:
    """Holds answers against what the run knows, and against each other.

    Args:
        classes: Names of the classes.
        asked: The samples that were asked for -> where their images are.
        size: Samples in the pool.
        before: What samples are labeled as so far, None for "cannot tell".
    """

    def __init__(
        self,
        classes: Sequence[str],
        asked: Mapping[int, str | None],
        size: int,
        before: Mapping[int, str | None],
    ) -> None:
        self._classes = list(dict.fromkeys(classes))
        self._known = set(classes)
        self._asked = asked
        self._size = size
        self._before = before
        self._said: dict[int, dict[str | None, str]] = {}
        self._taken: set[int] = set()
        self._advice: dict[str, str] = {}

    def label(self, answer: Answer) -> str | None:
        """The label that an answer means; None for "cannot tell", or where it is left open."""
        return None if answer.label == CANNOT_TELL and CANNOT_TELL not in self._known else answer.label

    def note(self, file: str, answer: Answer) -> None:
        """Remember what is said of a sample, and where for the first time."""
        sample, label = sample_number(answer.sample), self.label(answer)
        if sample is not None and answer.label is not None and (label is None or label in self._known):
            self._said.setdefault(sample, {}).setdefault(label, f"{file}, {answer.where}")

    def verdict(self, answer: Answer) -> tuple[str, str]:
        """What becomes of an answer, after all are noted: a key of KINDS, and what else is to be said."""
        sample, label = sample_number(answer.sample), self.label(answer)
        if sample is None or sample >= self._size:
            return UNKNOWN_SAMPLE, f"the pool has the ids 0 to {self._size - 1}"
        if sample not in self._asked:
            return NOT_ASKED, "no round has asked for it"
        if answer.place is not None and answer.place != self._asked[sample]:
            return OTHER_IMAGE, (
                f"the file says it of {answer.place}, the run has {self._asked[sample]} there; import it "
                "into the run that it was exported from"
            )
        if answer.label is None:
            return OPEN, ""
        if label is not None and label not in self._known:
            return UNKNOWN_CLASS, self._advise(label)
        said = self._said[sample]
        if len(said) > 1:
            others = [f"{each or CANNOT_TELL!r} in {at}" for each, at in said.items() if each != label]
            return CONFLICT, "but " + "; ".join(others)
        if sample in self._taken:
            return REPEATED, ""
        self._taken.add(sample)
        if sample not in self._before:
            return (SKIPPED if label is None else NEW), ""
        if self._before[sample] == label:
            return SAME, ""
        return CORRECTION, f"was {self._before[sample] or CANNOT_TELL!r}"

    def _advise(self, label: str) -> str:
        if label not in self._advice:
            lower = {name.lower(): name for name in self._classes}
            near = [lower[name] for name in get_close_matches(label.lower(), lower, n=3)]
            more = len(self._classes) - _NAMES_SHOWN
            known = (", ".join(self._classes[:_NAMES_SHOWN]) or "none yet") + (
                f" and {more:,} more" if more > 0 else ""
            )
            meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            self._advice[label] = (
                f"{meant}the classes are {known}; --add-class {shlex.quote(label)} makes it one"
            )
        return self._advice[label]


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

"""`dm2at labels import` into a run of a service: files are read here, and their answers sent in pieces."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dm2at_ray.client.schemas import LARGEST_SAMPLE_ID, MOST_ANSWERS, Answered, AnswerIn
from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.checks import (
    CONFLICT,
    OPEN,
    REFUSED,
    REPEATED,
    UNKNOWN_CLASS,
    UNKNOWN_SAMPLE,
    Line,
    sample_number,
)
from dm2at_ray.labeling.formats import CANNOT_TELL, Answer
from dm2at_ray.labeling.importing import ImportReport, read_answers
from dm2at_ray.remote.address import RemoteRun

_LONGEST_NAME = 200


@dataclass
class _Word:
    """A label that files give a sample, once or more often.

    Attributes:
        sample: The sample's id.
        label: The name of its class; None for "cannot tell".
        lines: Where in the report it stands.
        outcome: What the service says of it.
    """

    sample: int
    label: str | None
    lines: list[int] = field(default_factory=list)
    outcome: Answered | None = None


def import_labels(
    run: RemoteRun,
    files: Sequence[str],
    *,
    format_name: str = "auto",
    source: str | None = None,
    add_classes: Sequence[str] = (),
    keep_good: bool = False,
    accept_partial: bool = False,
) -> ImportReport:
    """Check files of answers with the service, and have it take what is new in them.

    The service says of every answer what would become of it before any is written, so nothing is where a
    line is refused, unless `keep_good`. More than 1,000 answers are written in several pieces; where that is
    cut off in between, the same import completes it, as importing again changes nothing.

    Args:
        run: The run.
        files: Paths or URIs.
        format_name: A key of `FORMATS`, or `auto` to go by what is in each file.
        source: None: the service writes down the token's name.
        add_classes: Names of classes that the run does not know yet: labels may name them.
        keep_good: Import the other lines where some are refused.
        accept_partial: The labels that are there then are enough for the round that awaits them.

    Returns:
        What became of each line.

    Raises:
        LabelError: A file cannot be read, or there is no label to go on with.
        ServiceError: The service refuses, or does not answer.
    """
    if source is not None:
        raise LabelError(f"--source {source}: the service writes down whose token it is; leave it out")
    answers = [(name, answer) for name in files for answer in read_answers(name, format_name)]
    me = run.client.me().name
    lines = [Line(OPEN, file, a.where, a.sample, a.label, "", me) for file, a in answers]
    words = _words(run, lines, answers)
    new = list(add_classes)
    _send(run, words, add_classes=new, keep_good=True, check=True)
    report = ImportReport(_told(lines, words))
    if not report.refused or keep_good:
        good = [word for word in words if not _is_refused(word)]
        written = _send(run, good, add_classes=new, keep_good=keep_good)
        report.lines = _told(lines, words)
        report.written = f"{written:,} labels" if written else None
    _look_at_round(run, report)
    if accept_partial and (keep_good or not report.refused):
        _accept(run, report)
    return report


def _words(run: RemoteRun, lines: list[Line], answers: Sequence[tuple[str, Answer]]) -> list[_Word]:
    """What is to be asked of the service; lines of which that is clear already are changed in place."""
    if not answers:
        return []
    is_class = CANNOT_TELL in run.client.status(run.name).classes
    words: dict[tuple[int, str | None], _Word] = {}
    for place, (file, answer) in enumerate(answers):
        label = None if answer.label == CANNOT_TELL and not is_class else answer.label
        sample = sample_number(answer.sample)
        by = lines[place].by

        def line(kind: str, about: str) -> Line:
            return Line(kind, file, answer.where, answer.sample, label, about, by)  # noqa: B023

        if sample is None or sample > LARGEST_SAMPLE_ID:
            lines[place] = line(UNKNOWN_SAMPLE, "no number of a sample")
        elif answer.label is None:
            continue
        elif label is not None and len(label) > _LONGEST_NAME:
            lines[place] = line(UNKNOWN_CLASS, f"no class has a name of more than {_LONGEST_NAME} characters")
        else:
            lines[place] = line(OPEN, "")
            words.setdefault((sample, label), _Word(sample, label)).lines.append(place)
    return list(words.values())


def _send(
    run: RemoteRun, words: Sequence[_Word], *, add_classes: list[str], keep_good: bool, check: bool = False
) -> int:
    """Ask what becomes of words, and have them written unless it is a check; how many were written."""
    written = 0
    for piece in _pieces(words):
        sent = [AnswerIn(sample_id=word.sample, label=word.label) for word in piece]
        report = run.client.answer(run.name, sent, keep_good=keep_good, add_classes=add_classes, check=check)
        for word, outcome in zip(piece, report.outcomes, strict=True):
            word.outcome = outcome
        written += report.written
    return written


def _pieces(words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """At most MOST_ANSWERS at once; different labels of a sample in the same piece, as they contradict."""
    by_sample: dict[int, list[_Word]] = {}
    for word in words:
        by_sample.setdefault(word.sample, []).append(word)
    piece: list[_Word] = []
    for group in by_sample.values():
        some = group[:MOST_ANSWERS]
        if len(piece) + len(some) > MOST_ANSWERS:
            yield piece
            piece = []
        piece += some
    if piece:
        yield piece


def _is_refused(word: _Word) -> bool:
    return word.outcome is None or word.outcome.outcome in (*REFUSED, "other_round")


def _told(lines: Sequence[Line], words: Sequence[_Word]) -> list[Line]:
    """The lines with what the service says of them."""
    told = list(lines)
    by_sample: dict[int, list[_Word]] = {}
    for word in words:
        by_sample.setdefault(word.sample, []).append(word)
    for word in words:
        refused = _is_refused(word)
        kind = CONFLICT if word.outcome is None else word.outcome.outcome
        about = _about(word, by_sample[word.sample], lines)
        for number, place in enumerate(word.lines):
            line = lines[place]
            repeated = number > 0 and not refused
            told[place] = Line(
                REPEATED if repeated else kind,
                line.file,
                line.where,
                line.sample,
                line.label,
                "" if repeated else about,
                line.by,
            )
    return told


def _about(word: _Word, of_sample: Sequence[_Word], lines: Sequence[Line]) -> str:
    """The service's words, with the mends that this command has for them."""
    outcome = word.outcome
    if outcome is None or outcome.outcome == CONFLICT:
        others = [each for each in of_sample if each is not word]
        named = [(each.label or CANNOT_TELL, lines[each.lines[0]]) for each in others[:20]]
        return "but " + "; ".join(f"{label!r} in {line.file}, {line.where}" for label, line in named)
    if outcome.outcome == UNKNOWN_CLASS:
        known = outcome.detail.partition("; add_classes makes")[0]
        return f"{known}; --add-class {shlex.quote(word.label or '')} makes it one"
    return outcome.detail


def _look_at_round(run: RemoteRun, report: ImportReport) -> None:
    """Tell how far the round is that awaits labels."""
    open_round = next((each for each in run.client.labels(run.name).rounds if each.open), None)
    if open_round is None:
        return
    report.round, report.asked = open_round.round, open_round.asked
    report.answered = open_round.answered
    if report.answered < report.asked:
        still_open = run.client.queries(run.name, open_round.round, state="open")
        report.missing = [query.sample_id for query in still_open]


def _accept(run: RemoteRun, report: ImportReport) -> None:
    if report.round is None:
        raise LabelError("--accept-partial: no round awaits labels now")
    if report.answered == 0:
        raise LabelError(f"--accept-partial: round {report.round} has no label at all to go on with")
    run.client.accept(run.name, report.round)
    report.accepted = report.round

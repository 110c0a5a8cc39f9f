"""Takes answers: judges those of all who wait together, writes them into the log, then says so."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dm2at_ray.client.schemas import AnswerIn, AnswersReport
from dm2at_ray.errors import PoolError
from dm2at_ray.labeling.book import FILE_SCHEMA, LabelBook, time_of
from dm2at_ray.pool import Manifest
from dm2at_ray.service import leases, pages
from dm2at_ray.service.committing import GroupCommit
from dm2at_ray.service.index import Index
from dm2at_ray.service.intake import Intake
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.verdicts import Judge, Verdict
from dm2at_ray.service.words import Word, add_file, add_words
from dm2at_ray.store import RunDirectory

_GIVEN_SCHEMA = pa.schema(list(FILE_SCHEMA)[:-1])
_POOL_LOOK_SECONDS = 10.0
LATE_SECONDS = 10.0
"""Half of what the page waits for an answer: what is written within it cannot be older than a correction."""


@dataclass(frozen=True)
class Given:
    """Answers of one request.

    Attributes:
        labeler: Who answers.
        answers: What they say.
        session: Where; None where nobody is told.
        keep_good: Whether the others are taken where some are refused.
        add_classes: Classes that these answers may name though the run does not know them.
        arrived: When they came, by `time.monotonic`.
    """

    labeler: str
    answers: Sequence[AnswerIn]
    session: str | None
    keep_good: bool
    add_classes: Sequence[str]
    arrived: float = math.inf

    def is_late(self) -> bool:
        """Whether whoever sent them may have given up, and said another thing since."""
        return time.monotonic() - self.arrived > LATE_SECONDS


class Answering:
    """Takes answers of many threads into the log of a run.

    Args:
        run: The run directory.
        index: Its index.
        intake: What keeps the index up with the run directory.
        clock: Seconds since 1970.
    """

    def __init__(self, run: RunDirectory, index: Index, intake: Intake, clock: Callable[[], float]) -> None:
        self._run = run
        self._book = LabelBook(run)
        self._index = index
        self._intake = intake
        self._clock = clock
        self._commit: GroupCommit[Given, AnswersReport] = GroupCommit(self.take_all)
        self._pool_lock = threading.Lock()
        self._pool_size = 0
        self._pool_looked = -_POOL_LOOK_SECONDS

    def take(self, given: Given) -> AnswersReport:
        """Take answers, together with those of others who come at the same time.

        Raises:
            ProblemError: They are refused, or cannot be written.
        """
        return self._commit(given)

    def check(self, given: Given) -> AnswersReport:
        """What would become of answers; nothing is written."""
        with self._index.reading() as db:
            judge = Judge(db, pages.known_classes(db), self._size_of_pool)
            verdicts = judge.judge(given.answers, given.add_classes, given.keep_good)
            return AnswersReport(
                outcomes=[each.outcome for each in verdicts],
                written=0,
                round=pages.awaiting(db, self._clock()),
                mine=pages.answers_from(db, given.labeler, pages.open_round(db)),
            )

    def take_all(self, requests: Sequence[Given]) -> list[AnswersReport | Exception]:
        """Take the answers of all who wait, but for late ones; nobody else does so at the same time."""
        self._intake.look_before_writing()
        late = [request.is_late() for request in requests]
        timely = [request for request, is_late in zip(requests, late, strict=True) if not is_late]
        taken = iter(self._take_timely(timely) if timely else ())
        return [_too_late() if is_late else next(taken) for is_late in late]

    def _take_timely(self, requests: Sequence[Given]) -> list[AnswersReport | Exception]:
        with self._index.reading() as db:
            judge = Judge(db, pages.known_classes(db), self._size_of_pool)
            verdicts = [judge.judge(r.answers, r.add_classes, r.keep_good) for r in requests]
            (newest,) = db.execute("SELECT max(name) FROM files").fetchone()
        refused = [
            not request.keep_good and any(each.is_refused for each in own)
            for request, own in zip(requests, verdicts, strict=True)
        ]
        words = [
            (request.labeler, verdict)
            for request, own, is_refused in zip(requests, verdicts, refused, strict=True)
            for verdict in own
            if not is_refused and verdict.is_written
        ]
        try:
            written = self._write(words, 0 if newest is None else time_of(newest))
        except (OSError, pa.ArrowException) as error:
            return [unwritable(self._run, error) for _ in requests]
        return self._take(requests, verdicts, refused, written)

    def _write(self, words: Sequence[tuple[str, Verdict]], newest: int) -> list[tuple[str, list[Word]]]:
        """Write words of labelers into the log, later than its newest file; the files that they are in."""
        parts: list[list[tuple[str, Verdict]]] = []
        earlier: Counter[int] = Counter()
        for labeler, verdict in words:
            # A file has one word on a sample: the second in a row goes into a second, later file.
            sample_id = verdict.outcome.sample_id
            if earlier[sample_id] == len(parts):
                parts.append([])
            parts[earlier[sample_id]].append((labeler, verdict))
            earlier[sample_id] += 1
        files = []
        moment = max(int(self._clock() * 1e6), newest + 1)
        for number, part in enumerate(parts):
            rows = [(v.outcome.sample_id, v.label, v.round, labeler) for labeler, v in part]
            columns = [list(column) for column in zip(*rows, strict=True)]
            name = self._book.write(pa.table(columns, schema=_GIVEN_SCHEMA), moment + number)
            files.append(
                (
                    name,
                    [
                        Word(name, place, sample_id, label, labeler, index, moment + number)
                        for place, (sample_id, label, index, labeler) in enumerate(rows)
                    ],
                )
            )
        if files:
            self._intake.has_written()
        return files

    def _take(
        self,
        requests: Sequence[Given],
        verdicts: Sequence[list[Verdict]],
        refused: Sequence[bool],
        written: Sequence[tuple[str, list[Word]]],
    ) -> list[AnswersReport | Exception]:
        """Take in what is written now, and tell each request what became of it."""
        reports: list[AnswersReport | Exception] = []
        with self._index.writing() as db:
            for name, words in written:
                add_words(db, words)
                add_file(db, name)
            for request, is_refused in zip(requests, refused, strict=True):
                if request.session is not None and not is_refused:
                    ids = [answer.sample_id for answer in request.answers]
                    leases.release(db, (request.session, request.labeler), ids)
            round_ = pages.awaiting(db, self._clock())
            for request, own, is_refused in zip(requests, verdicts, refused, strict=True):
                if is_refused:
                    reports.append(_refusal(own))
                    continue
                reports.append(
                    AnswersReport(
                        outcomes=[each.outcome for each in own],
                        written=sum(each.is_written for each in own),
                        round=round_,
                        mine=pages.answers_from(db, request.labeler, round_.round if round_ else None),
                    )
                )
        return reports

    def _size_of_pool(self) -> int:
        """How many samples the pool had a moment ago."""
        with self._pool_lock:
            if time.monotonic() - self._pool_looked >= _POOL_LOOK_SECONDS:
                files = self._run.manifest_files("pool")
                try:
                    self._pool_size = Manifest.open(files.filesystem, files.root).size
                except PoolError:
                    self._pool_size = 0
                self._pool_looked = time.monotonic()
            return self._pool_size


def unwritable(run: RunDirectory, error: Exception) -> ProblemError:
    """What to say where labels cannot be written."""
    reason = " ".join(str(error).split())
    return ProblemError("unreachable", f"run {run.name}: {reason}; send the labels again")


def _too_late() -> ProblemError:
    return ProblemError(
        "busy", f"the labels have waited for more than {LATE_SECONDS:g} s and were not taken; send them again"
    )


def _refusal(verdicts: Sequence[Verdict]) -> ProblemError:
    refused = [each.outcome for each in verdicts if each.is_refused]
    first = refused[0]
    more = f"; and {len(refused) - 1:,} more" if len(refused) > 1 else ""
    return ProblemError(
        "refused-labels",
        f"{len(refused):,} of {len(verdicts):,} labels are refused, so none was taken: sample "
        f"{first.sample_id}, {first.outcome.replace('_', ' ')}: {first.detail}{more}",
        outcomes=[each.model_dump() for each in refused],
    )

"""The desk of a run: hands out queries to those who label, and takes their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dm2at_ray.client.schemas import (
    AnswerIn,
    AnswersReport,
    DisagreementPage,
    LabelsStatus,
    Lease,
    Query,
    QueryPage,
    Round,
    SaidPage,
)
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.service import leases, pages
from dm2at_ray.service.answering import Answering, Given, unwritable
from dm2at_ray.service.index import Index
from dm2at_ray.service.intake import Intake
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.store import RunDirectory

_LONGEST_RETRY = 15.0


class Desk:
    """Queries and labels of one run, for many threads.

    The run directory is the truth; the index beside it makes answers quick, and holds the leases. Python
    keeps nothing that grows with the queries or the labels.

    Args:
        run: The run directory.
        index: Where the index lies; what is damaged or of another run is begun anew.
        lease_seconds: How long a query that was handed out is nobody else's.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        run: RunDirectory,
        index: Path,
        *,
        lease_seconds: float = 120,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._book = LabelBook(run)
        self._index = Index(index, run.uri)
        self._intake = Intake(run, self._index)
        self._answering = Answering(run, self._index, self._intake, clock)

    def look(self, older_than: float = 2.0) -> None:
        """Take in what the run and other importers wrote, where the last look is older than so many seconds.

        All other methods do so first.

        Raises:
            ProblemError: The run directory cannot be read.
        """
        self._intake.look(older_than)

    def awaiting(self) -> Round | None:
        """The round that awaits labels; None where none does."""
        self.look()
        with self._index.reading() as db:
            return pages.awaiting(db, self._clock())

    def rounds(self) -> list[Round]:
        """Every round with queries, in order."""
        self.look()
        with self._index.reading() as db:
            return pages.all_rounds(db, self._clock())

    def classes(self) -> list[str]:
        """Names of the classes, with those that labels have added since a round was last begun."""
        self.look()
        with self._index.reading() as db:
            return pages.known_classes(db)

    def mine(self, labeler: str) -> int:
        """How many answers of the awaiting round came from somebody."""
        self.look()
        with self._index.reading() as db:
            return pages.answers_from(db, labeler, pages.open_round(db))

    def queries(
        self, round_index: int, state: pages.State = "all", after: int | None = None, limit: int = 100
    ) -> QueryPage:
        """Some queries of a round, best first; `after` is the rank of the last that is known.

        Raises:
            ProblemError: The round has no queries.
        """
        self.look()
        with self._index.reading() as db:
            return pages.query_page(db, round_index, state, after, limit)

    def query(self, sample_id: int) -> Query:
        """A sample as it was asked last.

        Raises:
            ProblemError: No round has asked for it.
        """
        self.look()
        with self._index.reading() as db:
            query = pages.one_query(db, sample_id)
        if query is None:
            raise ProblemError("unknown-sample", f"sample {sample_id}: no round of the run has asked for it")
        return query

    def claim(self, labeler: str, session: str, count: int) -> Lease:
        """Lease queries to a session: those that it holds, then the best that are open and nobody's."""
        self.look()
        now, holder = self._clock(), (session, labeler)
        with self._index.writing() as db:
            index = pages.open_round(db)
            if index is None:
                return Lease(round=None, queries=[], mine=0, retry_seconds=None)
            leases.claim(db, index, holder, count, now, now + self._lease_seconds)
            queries = pages.held_queries(db, index, holder)
            round_ = pages.round_message(db, index, now)
            retry = None
            if not queries and round_.answered < round_.asked:
                end = leases.first_end(db, index) or now
                retry = min(max(1.0, end - now), _LONGEST_RETRY)
            mine = pages.answers_from(db, labeler, index)
        return Lease(round=round_, queries=queries, mine=mine, retry_seconds=retry)

    def release(self, labeler: str, session: str, sample_ids: Sequence[int] | None = None) -> None:
        """End leases of a session, all of them where no samples are named."""
        self.look()
        with self._index.writing() as db:
            leases.release(db, (session, labeler), sample_ids)

    def answer(
        self,
        labeler: str,
        answers: Sequence[AnswerIn],
        *,
        session: str | None = None,
        keep_good: bool = False,
        add_classes: Sequence[str] = (),
        arrived: float | None = None,
    ) -> AnswersReport:
        """Take answers; what is reported as written is on disk, in the run's log.

        Args:
            labeler: Who answers.
            answers: What they say; what counts already is not written again.
            session: Where; its leases on these samples end.
            keep_good: Take the others where some are refused.
            add_classes: Classes that these answers may name though the run does not know them.
            arrived: When they came, by `time.monotonic`: too long ago, they are refused, as whoever sent them
                may have given up and corrected them since. Now if left out.

        Raises:
            ProblemError: Answers are refused, and nothing was written; or the run directory cannot be
                written, and nobody knows whether it was: say it again.
        """
        arrived = time.monotonic() if arrived is None else arrived
        self.look()
        return self._answering.take(Given(labeler, answers, session, keep_good, add_classes, arrived))

    def check(
        self, labeler: str, answers: Sequence[AnswerIn], *, add_classes: Sequence[str] = ()
    ) -> AnswersReport:
        """What would become of answers, those that would be refused among them; nothing is written.

        Raises:
            ProblemError: The run directory cannot be read.
        """
        self.look()
        return self._answering.check(Given(labeler, answers, None, True, add_classes))

    def accept_partial(self, round_index: int, labeler: str) -> Round:
        """Say that the labels which a round has are enough for the run to go on.

        Raises:
            ProblemError: The round has no queries, awaits no labels, or has none at all.
        """
        self.look(0)
        with self._index.reading() as db:
            round_ = pages.round_message(db, round_index, self._clock())
        if not round_.open:
            raise ProblemError("not-awaiting", f"round {round_index} awaits no labels")
        if round_.answered == 0:
            raise ProblemError("wrong-state", f"round {round_index} has no label at all to go on with")
        if not round_.accepted:
            try:
                self._book.accept_partial(round_index, labeler)
            except OSError as error:
                raise unwritable(self._run, error) from error
            with self._index.writing() as db:
                db.execute("UPDATE rounds SET accepted = 1 WHERE round = ?", (round_index,))
        with self._index.reading() as db:
            return pages.round_message(db, round_index, self._clock())

    def said(self, sample_id: int | None = None, after: int | None = None, limit: int = 100) -> SaidPage:
        """Some of what was said of a sample, or of all, oldest first.

        Raises:
            ProblemError: `after` is not the `next` of a page.
        """
        self.look()
        with self._index.reading() as db:
            return pages.said_page(db, sample_id, after, limit)

    def disagreements(self, after: int | None = None, limit: int = 100) -> DisagreementPage:
        """Some of the samples of which different people have said different things, by sample id."""
        self.look()
        with self._index.reading() as db:
            return pages.disagreement_page(db, after, limit)

    def status(self) -> LabelsStatus:
        """What was asked and what was said, in numbers."""
        self.look()
        with self._index.reading() as db:
            return pages.labels_status(db, self._clock())

    def close(self) -> None:
        """Close the index; the desk is of no use then."""
        self._index.close()

"""What must hold of labels given by many at once: held against the run directory, not the service's word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dm2at_ray.bench.serve_labelers import LabelersResult
from dm2at_ray.labeling import LabelBook
from dm2at_ray.store import RunDirectory


@dataclass(frozen=True)
class Faults:
    """What went wrong; every number is 0 where all is well.

    Attributes:
        served_twice: Queries that were handed to somebody while they were leased to somebody else.
        lost: Labels that were reported as written and are not in the log with that label and source.
        doubled: Samples that have more than one word in the log.
        unanswered: Queries without a word in the log.
        wrong: Words that nobody was told to be written, or that say another label than was sent.
    """

    served_twice: int
    lost: int
    doubled: int
    unanswered: int
    wrong: int

    @property
    def any(self) -> bool:
        """Whether anything did."""
        return any(vars(self).values())


def find_faults(run: RunDirectory, truth: Mapping[int, str], result: LabelersResult) -> Faults:
    """Compare what the labelers saw with what a fresh look at the log finds.

    Args:
        run: The run directory.
        truth: Sample id -> label, of every query that was to be answered.
        result: What the labelers saw.
    """
    records = [row for row in LabelBook(run).records().to_pylist() if row["sample_id"] in truth]
    there = Counter((row["sample_id"], row["label"], row["source"]) for row in records)
    sent = Counter((sample_id, truth[sample_id], who) for sample_id, who in result.acknowledged)
    words = Counter(row["sample_id"] for row in records)
    return Faults(
        served_twice=served_twice(result.served),
        lost=(sent - there).total(),
        doubled=sum(count > 1 for count in words.values()),
        unanswered=sum(sample_id not in words for sample_id in truth),
        wrong=(there - sent).total(),
    )


def served_twice(served: Sequence[tuple[int, str, float, float]]) -> int:
    """How many times a sample was handed out while another labeler's lease on it lived.

    A sample that is answered is not handed out again, so an answer needs no look: two labelers have the same
    sample only where the first one's lease has ended by its time.

    Args:
        served: Sample id, labeler, time and end of the lease, in any order.

    Examples:
        >>> served_twice([(1, "ann", 0.0, 9.0), (1, "ann", 4.0, 13.0), (1, "bob", 14.0, 20.0)])
        0
        >>> served_twice([(1, "ann", 0.0, 9.0), (1, "bob", 4.0, 13.0)])
        1
    """
    holder: dict[int, tuple[str, float]] = {}
    twice = 0
    for sample_id, who, now, until in sorted(served, key=lambda each: each[2]):
        before = holder.get(sample_id)
        twice += before is not None and before[0] != who and now < before[1]
        holder[sample_id] = (who, until)
    return twice

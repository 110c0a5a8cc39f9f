"""What the service and its clients say to each other; the fields' docstrings are the API's words."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StringConstraints

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
SESSION = r"^[A-Za-z0-9_-]{1,64}$"
LARGEST_SAMPLE_ID = 2**53 - 1
"""The largest number that JSON carries unharmed through JavaScript and its like."""
MOST_ANSWERS = 1000
"""Labels in one request."""
MOST_LEASES = 100
"""Queries that one session may hold."""
LONGEST_CONFIG = 65_536
"""Characters of a run's YAML."""

Role = Literal["read", "label", "operate"]
"""Each may do what those before it may: look; label; start, pause and stop runs."""

RunName = Annotated[str, StringConstraints(pattern=RUN_NAME)]


def _no_guess(value: object) -> object:
    """JSON's true and "1" are no numbers, though Python takes them for some."""
    if isinstance(value, bool | str | bytes):
        raise ValueError("a number is needed here")
    return value


_NUMBER = BeforeValidator(_no_guess)
SampleId = Annotated[int, Field(ge=0, le=LARGEST_SAMPLE_ID), _NUMBER]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Message(BaseModel):
    """Base of all messages; a client passes over what a newer service says besides."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Wish(Message):
    """Base of what clients send: a field that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Problem(Message):
    """An error, as RFC 9457 has it; sent as application/problem+json."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    type: str = "about:blank"
    """What kind of problem it is: a path below the service's /problems, or about:blank."""
    title: str
    """The kind in words."""
    status: int
    """The HTTP status code."""
    detail: str
    """What is wrong this time, and the mend."""
    instance: str | None = None
    """The path that was asked for."""


class Me(Message):
    """Who asks, and what may be done."""

    name: str
    """The name of the token; `local` where no tokens are asked for."""
    role: Role
    """What the token may do."""
    version: str
    """Of the service."""
    can_start_runs: bool
    """Whether the service knows a Ray cluster to start runs on."""


class RunRequest(Wish):
    """A run to start."""

    name: RunName
    """Its name: also that of its directory below the service's root."""
    config: Annotated[str, StringConstraints(max_length=LONGEST_CONFIG)]
    """The YAML of the run, as `dm2at run` takes it; its own `name` is replaced by the run's."""
    advance: StrictBool = True
    """Whether the next step starts by itself as soon as a round has the labels that it needs."""


RunState = Literal[
    "submitted",
    "pending",
    "running",
    "awaiting_labels",
    "paused",
    "stopped",
    "done",
    "failed",
    "interrupted",
]
"""`submitted`: known here, its job has not begun; `pending`: the cluster has its job and has not started it;
`interrupted`: its driver is gone without a word, resume goes on; the others as they say."""


class Round(Message):
    """How far a round's labels are."""

    round: int
    """From 0."""
    asked: int
    """Queries of the round."""
    answered: int
    """Those with an answer, "cannot tell" included."""
    skipped: int
    """Those of which a person could not tell the label."""
    leased: int
    """Open ones that somebody has before them at this moment."""
    needed: int
    """Answers that the run needs to go on."""
    accepted: bool
    """Whether an operator said that the answers there are enough."""
    open: bool
    """Whether the round awaits labels."""


class RunSummary(Message):
    """A run among others."""

    name: str
    """Its name."""
    state: RunState
    """Where it stands."""
    round: int
    """The round that it is at."""
    labeled: int
    """Labels that it is trained with, or about to be."""
    time: datetime
    """Of its last word."""


class RunStatus(RunSummary):
    """Where a run is."""

    stage: str
    """The stage at work; empty between stages."""
    done: int
    """How far the stage is."""
    total: int
    """Of how much; 0 where that is not known."""
    unit: str
    """What is counted there."""
    unlabeled: int
    """Images of the pool that are not labeled."""
    rounds_committed: int
    """Rounds that are final."""
    advance: bool
    """Whether the next step starts by itself."""
    reason: str
    """Why it ended, failed, or waits; empty while it works."""
    job: str | None
    """Id of its last Ray job that the service knows; None where it was started otherwise."""
    driver_lives: bool
    """Whether a driver has said a word in the last minute."""
    awaiting: Round | None
    """The round that awaits labels; None where none does."""
    classes: list[str]
    """Names of the classes in the order of their numbers."""


class RunPage(Message):
    """Some of the runs, by name."""

    runs: list[RunSummary]
    """At most as many as were asked for."""
    next: str | None
    """Give it as `after` for those that follow; None at the end."""


class RoundMetrics(Message):
    """A committed round."""

    round: int
    """From 0."""
    metrics: dict[str, Any]
    """`metrics.json` of the round: sizes, accuracies, costs."""


class RoundPage(Message):
    """Some of the committed rounds, in order."""

    rounds: list[RoundMetrics]
    """At most as many as were asked for."""
    next: int | None
    """Give it as `after` for those that follow; None at the end."""


class Neighbor(Message):
    """A labeled sample near a query."""

    sample_id: int
    """Its id."""
    distance: float
    """From the query, in the features of the round's model."""
    label: str
    """The name of its class."""


class Query(Message):
    """A sample that a round asks a label for."""

    sample_id: int
    """Its id."""
    round: int
    """The round that asks."""
    rank: int
    """Its place among the round's queries, best first."""
    score: float | None
    """Its acquisition score; None in round 0, which draws at random."""
    predicted: str | None
    """The class that the model takes it for; None where no model has seen it."""
    neighbors: list[Neighbor]
    """The labeled samples nearest to it, nearest first."""
    answered: bool
    """Whether somebody has answered."""
    label: str | None
    """The label that counts; None for "cannot tell", or where nobody has answered."""
    leased_until: datetime | None = None
    """Until when it is the asker's own; None where it was not leased for them."""
    twin: bool = False
    """Whether the round has an adversarial twin of it."""


class QueryPage(Message):
    """Some of a round's queries, best first."""

    round: int
    """The round."""
    queries: list[Query]
    """At most as many as were asked for."""
    next: int | None
    """Give it as `after` for those that follow; None at the end."""


class LeaseRequest(Wish):
    """Wish for queries to label that nobody else is shown meanwhile."""

    session: Annotated[str, StringConstraints(pattern=SESSION)]
    """The place where a person labels, such as a window; its own leases are given to it again."""
    count: Annotated[int, Field(ge=1, le=MOST_LEASES), _NUMBER] = 5
    """How many queries to hold in all."""


class Lease(Message):
    """The queries that a session holds."""

    round: Round | None
    """The round that awaits labels; None where none does."""
    queries: list[Query]
    """Best first; empty where the others hold all that are open, or none is."""
    mine: int
    """How many of the round's answers came from the asker."""
    retry_seconds: float | None
    """Where it is empty: after so long it is worth asking again; None where the round is answered."""


class ReleaseRequest(Wish):
    """Give leases back before they expire."""

    session: Annotated[str, StringConstraints(pattern=SESSION)]
    """Whose."""
    sample_ids: Annotated[list[SampleId], Field(max_length=MOST_LEASES)] | None = None
    """Which; all of them if left out."""


class AnswerIn(Wish):
    """What a person says of a sample."""

    sample_id: SampleId
    """Which."""
    label: ClassName | None
    """The name of its class; null for "cannot tell"."""
    round: Annotated[int, Field(ge=0, le=10**6), _NUMBER] | None = None
    """The round that asked: where it is given and another one did, the answer is refused."""


class AnswersRequest(Wish):
    """Labels to take. An answer that repeats what counts changes nothing; another one is a correction."""

    answers: Annotated[list[AnswerIn], Field(min_length=1, max_length=MOST_ANSWERS)]
    """A sample may be named once."""
    session: Annotated[str, StringConstraints(pattern=SESSION)] | None = None
    """Its leases on these samples end."""
    keep_good: StrictBool = False
    """Take the others where some are refused; else nothing is written then."""
    add_classes: Annotated[list[ClassName], Field(max_length=100)] = []
    """Operators: classes that the run does not know yet and these labels may name."""
    check: StrictBool = False
    """Only tell what would become of them: nothing is written, and what would be refused is no error."""


Outcome = Literal[
    "new",
    "skipped",
    "correction",
    "same",
    "unknown_sample",
    "not_asked",
    "other_round",
    "unknown_class",
    "conflict",
]
"""What became of an answer; the last five are refused."""


class Answered(Message):
    """What became of an answer."""

    sample_id: int
    """Which."""
    outcome: Outcome
    """What."""
    detail: str
    """What else is to be said: the earlier label, the mend."""


class AnswersReport(Message):
    """What became of the answers. What is told here is on disk."""

    outcomes: list[Answered]
    """In the order of the answers."""
    written: int
    """How many were written."""
    round: Round | None
    """The round that awaits labels, after them; None where none does."""
    mine: int
    """How many of its answers came from the asker."""


class Said(Message):
    """A word of a person on a sample."""

    sample_id: int
    """Which."""
    round: int
    """The round that asked."""
    label: str | None
    """The name of the class; None for "cannot tell"."""
    source: str
    """Who."""
    time: datetime
    """When."""
    counts: bool
    """Whether it is the last word on the sample."""


class SaidPage(Message):
    """Some of what was said, oldest first."""

    said: list[Said]
    """At most as many as were asked for."""
    next: int | None
    """Give it as `after` for those that follow; None at the end."""


class Disagreement(Message):
    """A sample of which different people have said different things."""

    sample_id: int
    """Which."""
    round: int
    """The round that asked."""
    said: list[Said]
    """Every word, oldest first."""


class DisagreementPage(Message):
    """Some of the disagreements, by sample id."""

    disagreements: list[Disagreement]
    """At most as many as were asked for."""
    next: int | None
    """Give it as `after` for those that follow; None at the end."""


class LabelsStatus(Message):
    """What was asked and what was said, in numbers."""

    rounds: list[Round]
    """Every round with queries, in order."""
    corrections: int
    """Words that changed an earlier one."""
    sources: dict[str, int]
    """Who -> of how many samples their word counts; the 100 who said most."""
    classes: dict[str, int]
    """Class -> how many samples have it."""

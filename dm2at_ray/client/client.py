"""The service from a program: a method for each of its routes."""

from __future__ import annotations

import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from dm2at_ray.client.errors import NO_CONNECTION, NOT_A_SERVICE, ServiceError
from dm2at_ray.client.event_stream import events as parse_events
from dm2at_ray.client.schemas import (
    RUN_NAME,
    AnswerIn,
    AnswersReport,
    AnswersRequest,
    Disagreement,
    DisagreementPage,
    LabelsStatus,
    Lease,
    LeaseRequest,
    Me,
    Message,
    Query,
    QueryPage,
    ReleaseRequest,
    Round,
    RoundMetrics,
    RoundPage,
    RunPage,
    RunRequest,
    RunStatus,
    RunSummary,
    Said,
    SaidPage,
)
from dm2at_ray.client.transport import API, Transport

TOKEN_VARIABLE = "DM2AT_TOKEN"
"""Environment variable of the token."""

M = TypeVar("M", bound=Message)
Labels = Mapping[int, str | None] | Iterable[AnswerIn | tuple[int, str | None]]
"""Sample ids with the names of their classes; None for "cannot tell"."""


class Client:
    """A service of runs, queries and labels; any number of threads may use one.

    What fails for a moment is tried again: where the service does not answer, or says that it cannot now.
    That does no harm, as every request may be sent twice.

    Args:
        url: Where the service is, such as `https://labels.example.org` or `http://127.0.0.1:8700`.
        token: What shows who you are; the environment's `DM2AT_TOKEN` if left out; not needed where the
            service runs on this machine without tokens. It goes to this URL alone.
        timeout: Seconds in which an answer has to begin.
        patience: Seconds over which a request is tried again.

    Raises:
        ServiceError: From every method: the service refuses (`kind` tells why), or does not answer.

    Examples:
        Label what a run asks, best query first::

            from dm2at_ray.client import Client

            client = Client("http://127.0.0.1:8700")
            for status in client.events("digits"):
                if status.state == "awaiting_labels":
                    for query in client.queries("digits", status.awaiting.round, state="open"):
                        label = ask_somebody(client.picture("digits", query.sample_id), status.classes)
                        client.answer("digits", {query.sample_id: label})
                elif status.state in ("done", "failed", "stopped"):
                    break

        >>> Client("http://127.0.0.1:8700", token="secret")
        Client('http://127.0.0.1:8700')
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 30.0, patience: float = 15.0
    ) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE) or None
        self._transport = Transport(url, token, timeout, patience)
        # The service says at least every 15 seconds that it is still there.
        self._event_timeout = max(timeout, 45.0)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._transport.url

    def me(self) -> Me:
        """Who asks, and what they may do."""
        return self._get(Me, "/me")

    def runs(self) -> Iterator[RunSummary]:
        """All runs, by name; they are fetched as they are looked at."""
        return self._pages(RunPage, "/runs", lambda page: page.runs)

    def start(self, name: str, config: str, *, advance: bool = True) -> RunStatus:
        """Start a run; the same name and config again is the same run.

        Args:
            name: Its name.
            config: The YAML of it, as `dm2at run` takes it.
            advance: Whether the next step starts by itself as soon as a round has the labels that it needs.
        """
        return self._post(RunStatus, "/runs", RunRequest(name=name, config=config, advance=advance))

    def status(self, run: str) -> RunStatus:
        """Where a run is."""
        return self._get(RunStatus, _of(run))

    def events(self, run: str) -> Iterator[RunStatus]:
        """Where a run is: at once, and whenever that changes, for ever.

        Where the connection breaks it is made anew, so that nothing but steps in between may be missed.
        """
        last: RunStatus | None = None
        while True:
            heard = False
            try:
                for status in self._events(run):
                    heard = True
                    if status != last:
                        last = status
                        yield status
            except ServiceError as error:
                # A connection that cannot be made has been tried for as long as there is patience.
                if error.kind != NO_CONNECTION or not heard:
                    raise
            # A service that ends streams at once is not to be asked all the time.
            time.sleep(random.uniform(0.5, 1.0))

    def pause(self, run: str) -> RunStatus:
        """Stop a run's work until it is resumed; labels are still taken."""
        return self._post(RunStatus, f"{_of(run)}/pause")

    def resume(self, run: str) -> RunStatus:
        """Let a run go on from where it is."""
        return self._post(RunStatus, f"{_of(run)}/resume")

    def stop(self, run: str) -> RunStatus:
        """End a run's work: no queries are given out any more."""
        return self._post(RunStatus, f"{_of(run)}/stop")

    def config(self, run: str) -> str:
        """The YAML that a run was begun with, every field with its value."""
        return self._transport.get(f"{API}{_of(run)}/config").decode()

    def rounds(self, run: str) -> Iterator[RoundMetrics]:
        """The committed rounds in order, with what was measured."""
        return self._pages(RoundPage, f"{_of(run)}/rounds", lambda page: page.rounds)

    def queries(
        self, run: str, round_index: int, state: Literal["all", "open", "answered"] = "all"
    ) -> Iterator[Query]:
        """The queries of a round, best first; they are fetched as they are looked at."""
        path = f"{_of(run)}/rounds/{int(round_index)}/queries"
        return self._pages(QueryPage, path, lambda page: page.queries, state=state, limit=500)

    def query(self, run: str, sample_id: int) -> Query:
        """A sample that some round asked for."""
        return self._get(Query, _sample(run, sample_id))

    def picture(self, run: str, sample_id: int) -> bytes:
        """The picture of a query, or of a labeled neighbour of one: PNG, JPEG or WebP."""
        return self._transport.get(f"{API}{_sample(run, sample_id)}/picture")

    def twin(self, run: str, sample_id: int) -> bytes:
        """The adversarial twin of a query, as PNG."""
        return self._transport.get(f"{API}{_sample(run, sample_id)}/twin")

    def claim(self, run: str, session: str, count: int = 5) -> Lease:
        """Queries that nobody else is shown meanwhile: those that the session holds, then the best open ones.

        Args:
            run: The run's name.
            session: A name for the place where somebody labels, such as a window.
            count: How many to hold in all.
        """
        return self._post(Lease, f"{_of(run)}/leases", LeaseRequest(session=session, count=count))

    def release(self, run: str, session: str, sample_ids: Iterable[int] | None = None) -> None:
        """Give queries back before their time; all of the session if none are named."""
        ids = None if sample_ids is None else list(sample_ids)
        wish = ReleaseRequest(session=session, sample_ids=ids)
        self._transport.post(f"{API}{_of(run)}/leases/release", wish.model_dump_json())

    def answer(
        self,
        run: str,
        answers: Labels,
        *,
        session: str | None = None,
        keep_good: bool = False,
        add_classes: Iterable[str] = (),
        check: bool = False,
    ) -> AnswersReport:
        """Say labels; what is reported is on the service's disk.

        Args:
            run: The run's name.
            answers: At most 1,000: sample id -> name of its class, or None for "cannot tell".
            session: Its leases on these samples end.
            keep_good: Take the others where some are refused; nothing is written then else.
            add_classes: Classes that the run does not know yet and these labels may name.
            check: Only tell what would become of them.

        Raises:
            ServiceError: `refused-labels`: with `outcomes` among its `more`.
        """
        request = AnswersRequest(
            answers=list(_answers(answers)),
            session=session,
            keep_good=keep_good,
            add_classes=list(add_classes),
            check=check,
        )
        return self._post(AnswersReport, f"{_of(run)}/labels", request)

    def accept(self, run: str, round_index: int) -> Round:
        """Say that the labels that are there are enough for a round."""
        return self._post(Round, f"{_of(run)}/rounds/{int(round_index)}/accept")

    def labels(self, run: str) -> LabelsStatus:
        """What was asked and said so far, in numbers."""
        return self._get(LabelsStatus, f"{_of(run)}/labels")

    def said(self, run: str, sample_id: int | None = None) -> Iterator[Said]:
        """What people said of a sample, or of all, oldest first."""
        path = f"{_of(run)}/labels/said"
        return self._pages(SaidPage, path, lambda page: page.said, sample_id=sample_id, limit=500)

    def disagreements(self, run: str) -> Iterator[Disagreement]:
        """The samples of which different people have said different things, by id."""
        path = f"{_of(run)}/labels/disagreements"
        return self._pages(DisagreementPage, path, lambda page: page.disagreements, limit=500)

    def model(self, run: str, round_index: int, output: str | Path) -> Path:
        """Download the weights of a committed round; the file is there whole or not at all.

        Args:
            run: The run's name.
            round_index: The round.
            output: The safetensors file to write.
        """
        target = Path(output)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        path = f"{API}{_of(run)}/rounds/{int(round_index)}/model"
        try:
            with self._transport.stream(path) as response, temporary.open("wb") as file:
                for part in self._transport.parts(response):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def model_spec(self, run: str, round_index: int) -> dict[str, Any]:
        """What the weights are the state of: `round`, `spec` and `class_names`."""
        path = f"{API}{_of(run)}/rounds/{int(round_index)}/model/spec"
        found: dict[str, Any] = json.loads(self._transport.get(path))
        return found

    def report(self, run: str) -> str:
        """The run's report, one page of HTML."""
        return self._transport.get(f"{API}{_of(run)}/report").decode()

    def metrics(self) -> str:
        """What the service tells Prometheus of itself."""
        return self._transport.get("/metrics").decode()

    def openapi(self) -> dict[str, Any]:
        """The API's description."""
        found: dict[str, Any] = json.loads(self._transport.get(f"{API}/openapi.json"))
        return found

    def _events(self, run: str) -> Iterator[RunStatus]:
        with self._transport.stream(f"{API}{_of(run)}/events", self._event_timeout) as response:
            for name, data in parse_events(self._transport.parts(response, None)):
                if name == "status":
                    yield self._read(RunStatus, data)

    def _pages(
        self, page_type: type[M], path: str, items: Callable[[M], Iterable[Any]], **parameters: Any
    ) -> Iterator[Any]:
        after: Any = None
        while True:
            page: Any = self._get(page_type, path, after=after, **parameters)
            yield from items(page)
            after = page.next
            if after is None:
                return

    def _get(self, message: type[M], path: str, **parameters: Any) -> M:
        return self._read(message, self._transport.get(f"{API}{path}", **parameters))

    def _post(self, message: type[M], path: str, body: Message | None = None) -> M:
        sent = None if body is None else body.model_dump_json()
        return self._read(message, self._transport.post(f"{API}{path}", sent))

    def _read(self, message: type[M], text: bytes | str) -> M:
        try:
            return message.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its answer"
            raise ServiceError(
                NOT_A_SERVICE,
                200,
                f"{self.url}: {where}: {first['msg']}; that is not this version's service",
            ) from None


def _of(run: str) -> str:
    # Of `..` a path would become another one.
    if re.fullmatch(RUN_NAME.removeprefix("^").removesuffix("$"), run) is None:
        raise ServiceError("unknown-run", 0, f"{run!r}: no name that a run may have")
    return f"/runs/{run}"


def _sample(run: str, sample_id: int) -> str:
    return f"{_of(run)}/samples/{int(sample_id)}"


def _answers(labels: Labels) -> Iterator[AnswerIn]:
    pairs = labels.items() if isinstance(labels, Mapping) else labels
    for each in pairs:
        yield each if isinstance(each, AnswerIn) else AnswerIn(sample_id=each[0], label=each[1])

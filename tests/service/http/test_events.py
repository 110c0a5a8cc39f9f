"""Those who watch a run: told at once and of every change, by one look for all, and let go in the end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.service.auth import LOOK_SECONDS
from dm2at_ray.service.events import COMMENT, Events, EventStream, Subscription
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import revoke_token

from ...labeling.asked_run import AskedRun
from .conftest import Place, make_place
from .process import ServerProcess
from .test_live import read_until


class Source:
    """Where the status comes from: a number that the test moves."""

    def __init__(self) -> None:
        self.value = 0
        self.looks = 0
        self.error: Exception | None = None
        self.threads: set[int] = set()

    def __call__(self, name: str) -> bytes:
        self.looks += 1
        self.threads.add(threading.get_ident())
        if name == "nobody":
            raise ProblemError("unknown-run", "run nobody: there is none")
        if self.error is not None:
            raise self.error
        return json.dumps({"name": name, "value": self.value}).encode()


def settings(**more: Any) -> ServiceSettings:
    return ServiceSettings("nowhere", **{"poll_seconds": 0.01, "comment_seconds": 5.0, **more})


async def yes() -> bool:
    return True


def played(play: Callable[[Source, Events], Coroutine[Any, Any, None]], **more: Any) -> Source:
    """Play on one event loop."""
    source = Source()

    async def main() -> None:
        events = Events(source, settings(**more))
        try:
            await asyncio.wait_for(play(source, events), 60)
        finally:
            events.close()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.wait(left, timeout=5) if left else None
        assert all(task.done() for task in left), "somebody still looks"

    asyncio.run(main())
    return source


async def value(parts: AsyncIterator[bytes]) -> int:
    """The next event's number."""
    part = await anext(parts)
    assert part.startswith(b"event: status\ndata: ")
    assert part.endswith(b"\n\n")
    found: int = json.loads(part.splitlines()[1].removeprefix(b"data: "))["value"]
    return found


def test_subscribe__tells_the_status_at_once_and_then_its_changes_only() -> None:
    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(yes)
        assert await value(parts) == 0
        following = asyncio.ensure_future(value(parts))
        looks = source.looks
        while source.looks < looks + 3:
            await asyncio.sleep(0.01)
        assert not following.done(), "it told again what was told"
        source.value = 7
        assert await following == 7

    played(play)


def test_subscribe__many_watch_one_run_by_one_look_and_no_thread_of_their_own() -> None:
    async def play(source: Source, events: Events) -> None:
        subscriptions = [await events.subscribe("digits") for _ in range(100)]
        begun = source.looks
        streams = [subscription.parts(yes) for subscription in subscriptions]
        assert [await value(stream) for stream in streams] == [0] * 100
        await asyncio.sleep(0.3)
        assert source.looks - begun < 60, "every subscriber looks for itself"
        source.value = 1
        assert await asyncio.gather(*map(value, streams)) == [1] * 100
        assert threading.active_count() < 20

    played(play)


def test_subscribe__a_slow_one_is_told_the_last_word_and_not_all_of_them() -> None:
    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(yes)
        assert await value(parts) == 0
        for number in range(1, 30):
            source.value = number
            looks = source.looks
            while source.looks < looks + 2:
                await asyncio.sleep(0.005)
        assert await value(parts) == 29

    played(play)


def test_subscribe__silence_has_comments() -> None:
    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(yes)
        await value(parts)
        assert await anext(parts) == COMMENT
        assert await anext(parts) == COMMENT
        source.value = 1
        told = await anext(parts)
        while told == COMMENT:
            told = await anext(parts)
        assert b'"value": 1' in told

    assert COMMENT.startswith(b":")
    played(play, comment_seconds=0.05)


def test_subscribe__nobody_looks_once_nobody_watches() -> None:
    async def play(source: Source, events: Events) -> None:
        subscriptions = [await events.subscribe("digits") for _ in range(3)]
        assert events.subscribers == 3
        for subscription in subscriptions:
            subscription.close()
            subscription.close()
        assert events.subscribers == 0
        await asyncio.sleep(0.05)
        looks = source.looks
        await asyncio.sleep(0.2)
        assert source.looks == looks
        assert await value((await events.subscribe("digits")).parts(yes)) == 0

    played(play)


def test_subscribe__is_bounded_and_a_place_that_was_left_is_free() -> None:
    async def play(source: Source, events: Events) -> None:
        first = await events.subscribe("digits")
        await events.subscribe("other")
        with pytest.raises(ProblemError, match="2 watch runs already") as refused:
            await events.subscribe("digits")
        assert refused.value.kind == "busy"
        first.close()
        await events.subscribe("digits")

    played(play, max_subscribers=2)


def test_subscribe__at_once_by_many_keeps_to_the_bound() -> None:
    async def play(source: Source, events: Events) -> None:
        found = await asyncio.gather(*(events.subscribe("digits") for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(each, Subscription) for each in found) == 5
        assert events.subscribers == 5

    played(play, max_subscribers=5)


def test_subscribe__an_unknown_run_is_a_problem_before_anything_is_sent() -> None:
    async def play(source: Source, events: Events) -> None:
        with pytest.raises(ProblemError, match="there is none"):
            await events.subscribe("nobody")
        assert events.subscribers == 0

    played(play)


def test_subscribe__a_run_that_is_removed_ends_the_stream() -> None:
    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(yes)
        await value(parts)
        source.error = ProblemError("unknown-run", "gone")
        with pytest.raises(StopAsyncIteration):
            await anext(parts)

    played(play)


def test_subscribe__a_storage_that_is_silent_for_a_moment_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(yes)
        await value(parts)
        source.error = OSError("no answer")
        looks = source.looks
        while source.looks < looks + 5:
            await asyncio.sleep(0.01)
        source.error, source.value = None, 3
        assert await value(parts) == 3

    played(play)
    assert caplog.text.count("it is watched and cannot be looked at") == 1


def test_close__ends_all_streams_and_takes_no_more() -> None:
    async def play(source: Source, events: Events) -> None:
        streams = [(await events.subscribe(name)).parts(yes) for name in ("digits", "digits", "other")]
        for stream in streams:
            await value(stream)
        waiting = [asyncio.ensure_future(anext(stream, None)) for stream in streams]
        await asyncio.sleep(0.02)
        events.close()
        assert await asyncio.gather(*waiting) == [None] * 3
        with pytest.raises(ProblemError, match="the service ends"):
            await events.subscribe("digits")

    played(play)


def test_parts__end_when_who_watches_may_no_more() -> None:
    allowed = [True]

    async def still() -> bool:
        return allowed[0]

    async def play(source: Source, events: Events) -> None:
        parts = (await events.subscribe("digits")).parts(still)
        await value(parts)
        allowed[0] = False
        source.value = 1
        assert await anext(parts, None) is None

    played(play)


def test_stream__gives_its_place_back_when_the_client_goes() -> None:
    async def play(source: Source, events: Events) -> None:
        sent: list[Any] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        response = EventStream(await events.subscribe("digits"), yes)
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        streaming = asyncio.ensure_future(response(scope, receive, send))
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        assert events.subscribers == 1
        gone.set()
        await streaming
        assert events.subscribers == 0
        assert b"event: status" in sent[1]["body"]

    played(play)


def test_events__over_http(made_runs: AskedRun, tmp_path: Path) -> None:
    """One process: a change is told, an unknown run is 404, a revoked token ends its stream."""
    place: Place = make_place(tmp_path, made_runs)
    with ServerProcess("--runs", place.runs, "--tokens", place.tokens) as server:
        status, _, _ = server.ask("GET", "/api/v1/runs/nobody/events", headers=place.bearer("read"))
        assert status == 404
        with server.connect() as stream:
            bearer = place.bearer("read")["Authorization"]
            head = f"GET /api/v1/runs/digits/events HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n"
            stream.sendall(head.encode())
            first = read_until(stream, b"\n\n\r\n")
            assert b"content-type: text/event-stream" in first
            assert b"cache-control: no-store" in first
            assert b'"answered":0' in first
            body = json.dumps({"answers": [{"sample_id": 1300, "label": "two"}]}).encode()
            headers = {"Content-Type": "application/json", **place.bearer("label")}
            assert server.ask("POST", "/api/v1/runs/digits/labels", body, headers)[0] == 200
            assert b'"answered":1' in read_until(stream, b"\n\n\r\n")
            assert server.ask("POST", "/api/v1/runs/digits/pause", None, place.bearer("operate"))[0] == 200
            assert b'"state":"paused"' in read_until(stream, b"\n\n\r\n")
            revoke_token(place.tokens, "read")
            time.sleep(LOOK_SECONDS + 0.1)
            server.ask("POST", "/api/v1/runs/digits/stop", None, place.bearer("operate"))
            assert b"stopped" not in read_until(stream, b"0\r\n\r\n")

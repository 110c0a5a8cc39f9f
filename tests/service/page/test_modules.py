"""The page's modules that compute something, by themselves in the browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .visitor import Visitor

Call = Callable[..., Any]


@pytest.fixture
def call(visit: Callable[..., Visitor]) -> Call:
    """`call("keys", "plain", "Été")`: what a function of a module gives."""
    page = visit().page
    page.goto("/static/icon.svg")

    def call_(module: str, function: str, *arguments: object) -> Any:
        return page.evaluate(
            """async ([module, name, given]) => {
                const found = (await import(`/static/${module}.js`))[name](...given);
                return found instanceof Map ? Object.fromEntries(found) : found;
            }""",
            [module, function, list(arguments)],
        )

    return call_


def test_keys__names_are_told_apart_by_as_few_letters_as_can_be(call: Call) -> None:
    assert [call("keys", "plain", name) for name in ("T-shirt/top", "Été 2", "猫", "+")] == [
        "tshirttop",
        "ete2",
        "猫",
        "",
    ]
    letters = call("keys", "lettersNeeded", ["Trouser", "T-shirt", "Bag", "cat", "catfish", "Cat!"])
    # A name that begins another one, or is typed like it, is chosen by Enter.
    assert letters == {"Trouser": 2, "T-shirt": 2, "Bag": 1, "cat": 3, "catfish": 4, "Cat!": 3}
    assert call("keys", "containing", ["seahorse", "horse", "cow", "Horse fly"], "horse") == [
        "horse",
        "Horse fly",
        "seahorse",
    ]
    assert [call("keys", "digitOf", place) for place in (0, 8, 9, 10)] == ["1", "9", "0", ""]
    assert [call("keys", "placeOf", digit) for digit in "190"] == [0, 8, 9]
    assert call("keys", "areNumbers", ["0", "1", "10"]) is True
    assert call("keys", "areNumbers", ["0", "one"]) is False


def test_curves__ticks_are_round_and_enclose_what_is_shown(call: Call) -> None:
    assert call("curves", "ticks", 0.39, 0.77, 6) == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert call("curves", "ticks", 12, 36, 5) == [10, 15, 20, 25, 30, 35, 40]
    assert call("curves", "ticks", 100, 100, 4)[0] == 100
    assert call("curves", "ticks", 0, 1_000_000, 3) == [0, 500_000, 1_000_000]


def test_stream__events_are_read_as_they_are_written(call: Call) -> None:
    assert call("stream", "parse", 'event: status\ndata: {"round": 3}') == {
        "event": "status",
        "data": '{"round": 3}',
    }
    assert call("stream", "parse", "data: one\ndata:two\nid: 7") == {"event": "message", "data": "one\ntwo"}
    assert call("stream", "parse", ": still here") is None


def test_wait__each_failure_waits_twice_as_long_up_to_a_bound(call: Call) -> None:
    waits = [call("wait", "backoff", failures) / 1000 for failures in (1, 2, 3, 10, 1000)]
    for wait, middle in zip(waits, (0.5, 1, 2, 15, 15), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle

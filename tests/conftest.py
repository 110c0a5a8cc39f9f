"""The command in the test's own process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from dm2at_ray import cli


class Answer(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def dm2at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Answer]]:
    """`dm2at("status", directory)`: its exit code, and what it printed on stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    path = list(sys.path)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["dm2at", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        return Answer(int(ending.value.code or 0), *capsys.readouterr())

    yield call
    sys.path[:] = path
    for number, handler in handlers.items():
        signal.signal(number, handler)

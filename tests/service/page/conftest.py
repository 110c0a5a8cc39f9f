"""The service as a process, runs that await labels, and people with real browsers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.service.auth import LOOK_SECONDS
from dm2at_ray.service.tokens import new_token, revoke_token

from ..http.process import ServerProcess
from .mortal import MortalService
from .visitor import Visitor
from .waiting_run import WaitingRun, make_run

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PEOPLE = {"ann": "label", "bob": "label", "eve": "label", "kim": "label", "olga": "operate", "rita": "read"}


@dataclass(frozen=True)
class Place:
    """A service, and what it serves.

    Attributes:
        url: Of the service.
        runs: Folder of the runs.
        tokens: File of the tokens.
        secrets: Person -> token.
    """

    url: str
    runs: Path
    tokens: Path
    secrets: dict[str, str]

    def renew(self, person: str) -> str:
        """Take a person's token back and make them another, which the service knows when this returns."""
        revoke_token(self.tokens, person)
        token = new_token(self.tokens, person, PEOPLE[person])
        time.sleep(LOOK_SECONDS + 0.2)
        return token

    def new_run(self, **options: Any) -> WaitingRun:
        """A run on the digits of its own; options are those of `make_run`."""
        classes = options.pop("classes", DIGITS)
        name = f"digits-{uuid.uuid4().hex[:8]}"
        return make_run(str(self.runs / name), {"source": "digits"}, classes=classes, **options)


@pytest.fixture(scope="session")
def place(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service that asks for tokens."""
    folder = tmp_path_factory.mktemp("page")
    tokens = folder / "tokens.yaml"
    secrets = {name: new_token(tokens, name, role) for name, role in PEOPLE.items()}
    (folder / "runs").mkdir()
    with ServerProcess("--runs", folder / "runs", "--tokens", tokens) as server:
        yield Place(server.url, folder / "runs", tokens, secrets)


@pytest.fixture
def visit(chromium: Any, place: Place) -> Iterator[Callable[..., Visitor]]:
    """`visit()`: a person with a browser of their own; nothing may go wrong on a page of theirs."""
    with ExitStack() as contexts:
        people: list[Visitor] = []

        def arrive(url: str = place.url, **options: Any) -> Visitor:
            people.append(Visitor(chromium, url, **options))
            contexts.callback(people[-1].context.close)
            return people[-1]

        yield arrive
        for person in people:
            person.check()


@pytest.fixture(scope="session")
def its_grave(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalService]:
    service = MortalService(tmp_path_factory.mktemp("mortal"))
    yield service
    service.kill()


@pytest.fixture
def mortal(its_grave: MortalService) -> MortalService:
    """A service that lives, whatever became of it in the test before."""
    if not its_grave.is_alive:
        its_grave.start()
    return its_grave

"""The application on a real run directory, in the test's process or in one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dm2at_ray.service.app import create_app
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import new_token

from ...labeling.asked_run import AskedRun, make_asked_run
from .process import ServerProcess

ROLES = ("read", "label", "operate")
LOCAL = "http://127.0.0.1"


@dataclass(frozen=True)
class Place:
    """A folder of runs with one run in it, and a file of tokens.

    Attributes:
        runs: The folder; its run `digits` awaits labels in round 1.
        asked: That run.
        tokens: The file.
        secrets: Role -> a token of that role; its name is the role's too.
    """

    runs: Path
    asked: AskedRun
    tokens: Path
    secrets: dict[str, str]

    def bearer(self, role: str) -> dict[str, str]:
        """The header that a role sends."""
        return {"Authorization": f"Bearer {self.secrets[role]}"}


def make_place(folder: Path) -> Place:
    tokens = folder / "tokens.yaml"
    secrets = {role: new_token(tokens, role, role) for role in ROLES}
    return Place(folder / "runs", make_asked_run(str(folder / "runs" / "digits")), tokens, secrets)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture
def client(place: Place) -> Iterator[TestClient]:
    """The application with tokens asked for; requests are an operator's unless they say otherwise."""
    settings = ServiceSettings(str(place.runs), tokens=place.tokens)
    with TestClient(create_app(settings), LOCAL, raise_server_exceptions=False) as client:
        client.headers.update(place.bearer("operate"))
        yield client


@pytest.fixture
def open_client(place: Place) -> Iterator[TestClient]:
    """The application without tokens."""
    settings = ServiceSettings(str(place.runs))
    with TestClient(create_app(settings), LOCAL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def live_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def live(live_place: Place) -> Iterator[ServerProcess]:
    """`dm2at serve` with tokens, as a process."""
    with ServerProcess("--runs", live_place.runs, "--tokens", live_place.tokens) as server:
        yield server

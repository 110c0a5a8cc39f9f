"""The application on a real run directory, in the test's process or in one of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dm2at_ray.service.app import create_app
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import new_token
from dm2at_ray.store import RunDirectory

from ...labeling.asked_run import NAMES, AskedRun, make_asked_run
from ...stages.digits_run import make_digits_run
from .process import ServerProcess

ROLES = ("read", "label", "operate")
LOCAL = "http://127.0.0.1"


@dataclass(frozen=True)
class Place:
    """A folder of runs, and a file of tokens.

    Attributes:
        runs: The folder; `digits` awaits labels in its round 1, `done` has two rounds with models.
        asked: The run `digits`.
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


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> AskedRun:
    """Runs to copy: they take a while to make."""
    folder = tmp_path_factory.mktemp("made")
    asked = make_asked_run(str(folder / "digits"))
    done = make_digits_run(str(folder / "done"))
    done.directory.write_class_names(NAMES)
    said = {"reason": "as a test has it", "stage": "", "time": 1_760_000_000.0}
    asked.directory.write_status({"phase": "awaiting_labels", "round": 1, "labeled": 4, "pool": 1433, **said})
    done.directory.write_status({"phase": "done", "round": 1, "labeled": 20, "pool": 1417, **said})
    for name in ("metrics.json", "model/model.json", "model/model.safetensors"):
        asked.directory.round(0).files.write_bytes(name, done.directory.round(0).files.read_bytes(name))
    return asked


def make_place(folder: Path, made: AskedRun) -> Place:
    runs = folder / "runs"
    shutil.copytree(Path(made.directory.uri).parent, runs)
    tokens = folder / "tokens.yaml"
    secrets = {role: new_token(tokens, role, role) for role in ROLES}
    return Place(runs, replace(made, directory=RunDirectory(str(runs / "digits"))), tokens, secrets)


@pytest.fixture
def place(tmp_path: Path, made_runs: AskedRun) -> Place:
    return make_place(tmp_path, made_runs)


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
def live_place(tmp_path_factory: pytest.TempPathFactory, made_runs: AskedRun) -> Place:
    return make_place(tmp_path_factory.mktemp("live"), made_runs)


@pytest.fixture(scope="module")
def live(live_place: Place) -> Iterator[ServerProcess]:
    """`dm2at serve` with tokens, as a process."""
    with ServerProcess("--runs", live_place.runs, "--tokens", live_place.tokens) as server:
        yield server

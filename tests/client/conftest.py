"""A service as a process of its own, and clients of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dm2at_ray.client import Client
from dm2at_ray.config import Config
from dm2at_ray.service.tokens import new_token
from dm2at_ray.store import RunDirectory

from ..labeling.asked_run import NAMES, AskedRun, make_asked_run
from ..service.http.conftest import ROLES
from ..service.http.process import ServerProcess
from ..stages.digits_run import DigitsRun, make_digits_run

MANY = 620
"""Queries of the run `many`: more than a page."""


@dataclass(frozen=True)
class Live:
    """A server with tokens, and the runs below its root.

    Attributes:
        server: The process.
        runs: The root; its runs are empty-00 to empty-59, and those that follow.
        asked: The run `asked`, which awaits labels in round 1.
        many: The run `many`, which awaits labels of MANY queries in round 1.
        done: The run `done` with two committed rounds.
        secrets: Role -> token, whose name is the role's.
    """

    server: ServerProcess
    runs: Path
    asked: AskedRun
    many: AskedRun
    done: DigitsRun
    secrets: dict[str, str]

    def client(self, role: str = "operate") -> Client:
        return Client(self.server.url, self.secrets[role], patience=5)


def awaits(run: AskedRun) -> AskedRun:
    """Says what a driver leaves that waits for labels of round 1."""
    word = {"phase": "awaiting_labels", "round": 1, "stage": "", "labeled": 4, "pool": 1449}
    run.directory.write_status({**word, "time": time.time()})
    return run


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    runs, tokens = folder / "runs", folder / "tokens.yaml"
    asked = awaits(make_asked_run(str(runs / "asked")))
    ids = [sample for sample in range(MANY + 4) if sample not in (40, 7, 1200, 3)][:MANY]
    many = awaits(make_asked_run(str(runs / "many"), ids))
    done = make_digits_run(str(runs / "done"))
    done.directory.write_class_names(NAMES)
    for number in range(60):
        RunDirectory(str(runs / f"empty-{number:02}")).write_config(Config())
    secrets = {role: new_token(tokens, role, role) for role in ROLES}
    with ServerProcess("--runs", runs, "--tokens", tokens) as server:
        yield Live(server, runs, asked, many, done, secrets)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the person's own token out."""
    monkeypatch.delenv("DM2AT_TOKEN", raising=False)

"""The API against its own description: schemathesis asks what it allows, and what it does not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from dm2at_ray.service import service as service_module
from dm2at_ray.service.app import create_app
from dm2at_ray.service.server import BoundedProtocol
from dm2at_ray.service.settings import ServiceSettings

from ..job_api import JobApi
from .conftest import Place
from .test_roles import ROUTES

SETTINGS = """
[checks]
# Roles are tested route by route in test_roles.py; here an operator asks.
ignored_auth.enabled = false

# What is well-formed may still name a class, a page or a config that makes no sense.
[[operations]]
include-operation-id = ["start_run", "post_labels", "list_said"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
"""
SECONDS = 400


@pytest.fixture
def address(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that knows a cluster, in a thread of this process; the runs are real ones."""
    monkeypatch.setattr(service_module, "Jobs", lambda address: JobApi().service())
    settings = ServiceSettings(str(place.runs), address="http://127.0.0.1:8265", tokens=place.tokens)
    config = uvicorn.Config(
        create_app(settings), port=0, http=BoundedProtocol, ws="none", lifespan="on", log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def test_schemathesis__finds_no_defect_and_no_difference(address: str, place: Place, tmp_path: Path) -> None:
    """Examples, bounds of every field, fuzzing and sequences of requests; the same ones every time."""
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings)),
        *("run", f"{address}/api/v1/openapi.json"),
        *("--header", f"Authorization: {place.bearer('operate')['Authorization']}"),
        # It does not end; tests/service/http/test_events.py reads it.
        *("--exclude-operation-id", "run_events"),
        *("--generation-deterministic", "--max-examples", "40", "--no-shrink"),
        *("--request-timeout", "60", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    # All but that one, and the description itself, which schemathesis leaves out.
    assert f"Tested: {len(ROUTES) - 2}" in done.stdout

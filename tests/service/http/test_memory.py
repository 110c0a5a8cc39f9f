"""The server's memory, as the machine counts it, does not grow with runs, queries and labels."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from ...labeling.asked_run import ASKED, NAMES, AskedRun
from .conftest import make_place
from .process import ServerProcess

API = "/api/v1"
RUNS = 120
WARM_RUNS = 40
"""More than are kept open at once, so that closing and opening are warm too."""
ROUNDS_OF_LABELS = 8
WORKERS = 4
ALLOWED_BYTES = 24 * 2**20


def test_memory__does_not_grow_with_runs_and_labels(made_runs: AskedRun, tmp_path: Path) -> None:
    """Of 5,760 labels over 120 runs a third warms it up; two runs more for each warm one cost nothing."""
    place = make_place(tmp_path, made_runs)
    names = [f"run-{number:04d}" for number in range(RUNS)]
    for name in names:
        shutil.copytree(place.runs / "digits", place.runs / name)
    with ServerProcess("--runs", place.runs, "--cache", tmp_path / "cache") as server:
        use(server, names[:WARM_RUNS])
        before = server.resident_bytes()
        use(server, names[WARM_RUNS:])
        grown = server.resident_bytes() - before
        # A Python that forgets no answer, no run and no page would hold more than this.
        assert grown < ALLOWED_BYTES, f"{grown / 2**20:.1f} MiB more"
        status = json.loads(server.ask("GET", f"{API}/runs/{names[-1]}/labels")[2])
        assert status["corrections"] == (ROUNDS_OF_LABELS - 1) * len(ASKED)


def use(server: ServerProcess, names: list[str]) -> None:
    """What people and programs do with runs: label, correct, look at pictures and at what was said."""
    failures: list[object] = []
    parts = [names[number::WORKERS] for number in range(WORKERS)]
    workers = [threading.Thread(target=_use, args=(server, part, failures)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures[0]


def _use(server: ServerProcess, names: Iterable[str], failures: list[object]) -> None:
    try:
        for name in names:
            for label in range(ROUNDS_OF_LABELS):
                _post(server, f"{API}/runs/{name}/leases", {"session": f"s-{name}", "count": 3})
                answers = [{"sample_id": sample, "label": NAMES[label % 10]} for sample in ASKED]
                _post(server, f"{API}/runs/{name}/labels", {"answers": answers, "session": f"s-{name}"})
            for path in (
                "",
                "/rounds",
                "/labels",
                "/labels/said",
                "/rounds/1/queries",
                "/samples/1300/picture",
            ):
                status, _, content = server.ask("GET", f"{API}/runs/{name}{path}")
                assert status == 200, content
            assert server.ask("GET", f"{API}/runs/no-{name}")[0] == 404
    except Exception as error:
        failures.append(error)


def _post(server: ServerProcess, path: str, body: object) -> None:
    status, _, content = server.ask(
        "POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    assert status == 200, content

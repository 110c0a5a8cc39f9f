"""One Ray cluster and one undisturbed run for the whole test session; a limit for every phase of a test."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import uuid
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dm2at_ray import run
from dm2at_ray.launch import LOCAL_RAY

from ..conftest import google_variables, s3_variables
from .processes import VARIABLE, end_marked, wait_until_gone
from .runs import tiny_config

TESTS = Path(__file__).parents[1]
PHASE_SECONDS = 600
START_SECONDS = 120
END_SECONDS = 30

CLUSTER = """
import sys, ray
# Not one that somebody has started on this machine.
ray.init(
    address="local",
    num_cpus=4,
    num_gpus=0,
    object_store_memory=400_000_000,
    include_dashboard=False,
    log_to_driver=False,
)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


def limited(item: pytest.Item, seconds: int) -> Generator[None, Any, Any]:
    """Let a phase run with an alarm set, so that nothing waits for ever for a process that is gone."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def ray_address(
    tmp_path_factory: pytest.TempPathFactory, s3_server: str, google_server: str
) -> Iterator[str]:
    """Address of a real cluster: a node of 4 CPUs (shares of the two cores), no GPU, 400 MB of object store.

    Its workers reach the object stores of the tests. It ends with its standard input, so also when this
    process is killed.
    """
    log = tmp_path_factory.mktemp("ray") / "stderr"
    mark = uuid.uuid4().hex
    environment = {
        **os.environ,
        **LOCAL_RAY,
        **s3_variables(s3_server),
        **google_variables(google_server),
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        VARIABLE: mark,
    }
    environment.pop("RAY_ADDRESS", None)
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield _announced_address(process.stdout.fileno(), log)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=END_SECONDS)
            wait_until_gone(mark, END_SECONDS)
        except TimeoutError as error:
            # A process was seen to hang in its own exit, when Ray had let go of it already.
            # What a run of ours may leave behind is held to more strictly: by test_signals and test_resume.
            warnings.warn(str(error), stacklevel=1)
        finally:
            end_marked(mark)
            process.wait(timeout=END_SECONDS)


def _announced_address(stdout: int, log: Path) -> str:
    said = b""
    while select.select([stdout], [], [], START_SECONDS)[0]:
        part = os.read(stdout, 4096)
        said += part
        for line in said.splitlines(keepends=True):
            if line.startswith(b"address ") and line.endswith(b"\n"):
                return line.split()[1].decode()
        if not part:
            break
    pytest.fail(f"Ray did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def joined(ray_address: str) -> Iterator[str]:
    """This test process, joined to the session's cluster."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(address=ray_address, namespace="dm2at", log_to_driver=False, logging_level="ERROR")
    yield ray_address
    ray.shutdown()


@pytest.fixture(scope="session")
def reference(joined: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run of `tiny_config` (rounds 0 and 1) that nothing has disturbed; to be read only."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    assert len(run(tiny_config(), directory).rounds) == 2
    return directory

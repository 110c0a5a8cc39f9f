"""One Ray cluster for the whole test session, started as a process group of its own and ended by that group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dm2at_ray.launch import LOCAL_RAY

START_SECONDS = 120


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real cluster: one node of 4 CPUs (shares of the two cores), no GPU, 400 MB of object store."""
    directory = tmp_path_factory.mktemp("ray")
    environment = {
        **os.environ,
        **LOCAL_RAY,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [
        sys.executable, "-c", "import time, ray; ray.init(num_cpus=4, num_gpus=0, object_store_memory=400_000_000, "
        "include_dashboard=False, log_to_driver=False); "
        "print(ray.get_runtime_context().gcs_address, flush=True); time.sleep(3600)",
    ]  # fmt: skip
    log = (directory / "stderr").open("w")
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().rpartition(":")[2].isdigit():
                yield line.strip()
                break
        else:
            pytest.fail((directory / "stderr").read_text())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=START_SECONDS)


@pytest.fixture(scope="session")
def joined(ray_address: str) -> Iterator[str]:
    """This test process, joined to the session's cluster."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(address=ray_address, namespace="dm2at", log_to_driver=False, logging_level="ERROR")
    yield ray_address
    ray.shutdown()

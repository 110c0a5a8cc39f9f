"""Small runs, submitted as from a user's own machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from sklearn.datasets import load_digits

from dm2at_ray.store.tensors import tensor_column

from .nodes import Nodes, node_environment

RUN_SECONDS = 800
COPIES = 3

CONFIG: dict[str, Any] = {
    "name": "small",
    "data": {"source": "parquet", "label_column": "digit"},
    # Of 4,313 images 5 blocks, of 120 queries 2 batches, of 1,024 held-out images 4 pieces.
    "model": {"name": "gated_network:network", "batch_size": 64},
    "query": {"initial": 100, "size": 120},
    "neighbors": {"k": 3, "audit_queries": 50},
    "training": {"workers": 2, "epochs": 6, "min_steps": 0, "checkpoint_every": 2},
    "evaluation": {"pgd_steps": 2, "max_images": 1024},
    "stop": {"rounds": 1},
    "compute": {"actors": 3, "block_rows": 1024},
    "monitoring": {"port": 0},
}


def make_folder(folder: Path) -> Path:
    """What a user has at hand: a config, images, an own network."""
    digits = load_digits()
    random = np.random.default_rng(0)
    noise = random.normal(0, 20, (COPIES, *digits.images.shape))
    pixels = np.clip(digits.images * 255 / 16 + noise, 0, 255).astype(np.uint8)
    table = pa.table(
        {
            "image": tensor_column(pixels.reshape(-1, 8, 8, 1)),
            "digit": np.tile(digits.target, COPIES),
        }
    )
    (folder / "data").mkdir()
    (folder / "job").mkdir()
    pq.write_table(table, folder / "data/pool.parquet", row_group_size=1024)
    config = CONFIG | {"data": CONFIG["data"] | {"path": str(folder / "data/pool.parquet")}}
    (folder / "job/run.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(Path(__file__).with_name("gated_network.py"), folder / "job")
    return folder


class Submission:
    """A run that was submitted.

    Args:
        process: The submitting command, which follows the run to its end.
        log: What it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def end(self, seconds: float = RUN_SECONDS) -> int:
        """Wait for the run; return the exit code."""
        return self.process.wait(seconds)

    @property
    def output(self) -> str:
        """What was printed so far."""
        return self._log.read_text()


@contextmanager
def submitted(nodes: Nodes, folder: Path, run: Path) -> Iterator[Submission]:
    """Submit a run and follow it; the following ends with the block, the run by itself."""
    log = folder / f"log-{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "dm2at_ray", "submit", "run.yaml", "--run-dir", str(run)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder / "job",
            env={**node_environment(nodes.gate.path), **nodes.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Submission(process, log)
    finally:
        nodes.gate.open()
        if process.poll() is None:
            process.kill()
            process.wait()

"""A network that stops at a gate, so that a test can do its worst in the middle of a stage.

A test copies this file beside its config. The gate is a file that a test writes, which `DM2AT_TEST_GATE`
names: JSON with `status` (the run's status.json), `stage`, `round`, and `after` (a path or null: closed only
once it is there).
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from torch import Tensor, nn

PROBE = 2
"""Images of the probes that a classifier is built with; they pass."""

HOLD_SECONDS = 500


class Gated(nn.Linear):
    """Waits at the gate while it is closed for the stage in progress."""

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > PROBE:
            pass_gate(Path(os.environ["DM2AT_TEST_GATE"]))
        return super().forward(inputs)


def pass_gate(gate: Path) -> None:
    """Leave word of this process beside the gate, and wait until it is opened."""
    deadline = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < deadline:
        try:
            closed = json.loads(gate.read_text())
            status = json.loads(Path(closed["status"]).read_text())
        except FileNotFoundError:
            return
        if (status["stage"], status["round"]) != (closed["stage"], closed["round"]):
            return
        if closed["after"] is not None and not Path(closed["after"]).exists():
            return
        arrivals = gate.with_name("arrivals")
        arrivals.mkdir(exist_ok=True)
        (arrivals / f"{socket.gethostname()}.{os.getpid()}").touch()
        time.sleep(0.05)
    raise TimeoutError(f"nobody has opened {gate}")


def network(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """One hidden layer of 24 features on the pixels."""
    return nn.Sequential(
        nn.Flatten(),
        Gated(in_channels * image_size**2, 24),
        nn.ReLU(),
        Gated(24, num_classes),
    )

"""Tiny labeled sets and models, one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dm2at_ray
from dm2at_ray.training import LabeledSet


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_labeled() -> Callable[..., LabeledSet]:
    """A learnable set of 4x4 images: the class is the brightest quadrant."""

    def make(count: int, *, twins: str = "none", side: int = 4) -> LabeledSet:
        generator = np.random.default_rng(7)
        labels = generator.integers(0, 4, count)
        images = generator.integers(0, 120, (count, side, side, 1), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            half = side // 2
            top, left = half * (label // 2), half * (label % 2)
            image[top : top + half, left : left + half] += 100
        sample_ids = generator.permutation(10 * count)[:count]
        if twins == "none":
            return LabeledSet(sample_ids, images, labels)
        has_twin = np.full(count, True) if twins == "all" else np.arange(count) % 2 == 0
        return LabeledSet(sample_ids, images, labels, images // 2 + 30, has_twin)

    return make


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """A small classifier of 4x4 images into 4 classes, the same in every call."""

    def make(*, batch_norm: bool = False, dropout: bool = False) -> nn.Module:
        torch.manual_seed(1)
        layers: list[nn.Module] = [nn.Conv2d(1, 6, 3, padding=1)]
        if batch_norm:
            layers.append(nn.BatchNorm2d(6))
        layers += [nn.ReLU(), nn.Flatten()]
        if dropout:
            layers.append(nn.Dropout(0.3))
        return nn.Sequential(*layers, nn.Linear(96, 4))

    return make


@pytest.fixture(scope="session")
def run_workers() -> Callable[[Path, Path], None]:
    """Run a script of workers in a process group of its own, which ends with it; argument: a directory."""

    def run(script: Path, directory: Path) -> None:
        package_root = str(Path(dm2at_ray.__file__).parents[1])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": package_root}
        process = subprocess.Popen(
            [sys.executable, script, directory], env=environment, start_new_session=True
        )
        try:
            assert process.wait(timeout=180) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return run

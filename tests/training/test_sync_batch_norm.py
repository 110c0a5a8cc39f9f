"""Batch norm over all workers against torch's own in one process; the workers run sync_workers.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dm2at_ray.training import LabeledSet, TrainSettings, train
from dm2at_ray.training.sync_batch_norm import SyncBatchNorm, counting, synchronize_batch_norm

WORKERS = Path(__file__).with_name("sync_workers.py")
FLOAT32 = ["joint", "two", "shared"]
FLOAT64 = [
    "adversarial in train mode",
    "joint, both, GradAlign",
    "shared, GradAlign",
    "stored",
    "stored, adversarial",
    "shared, empty shares",
    "stored, empty shares",
]
PLACES = ["2-0", "2-1", "3-0", "3-1", "3-2"]


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, run_workers: Callable[[Path, Path], None]
) -> dict[str, dict[str, Any]]:
    """What each place saw, `plain` being one process with torch's own batch norm."""
    directory = tmp_path_factory.mktemp("sync")
    run_workers(WORKERS, directory)
    return {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", FLOAT32)
def test_workers__follow_one_process_with_torchs_batch_norm(
    seen: dict[str, dict[str, Any]], case: str, place: str
) -> None:
    """23 samples in batches of 5 and 4, which neither 2 nor 3 workers share evenly; float32."""
    expected, ours = seen["plain"][case], seen[place][case]
    assert len(expected["losses"]) == 20
    assert max(expected["losses"]) > 1.5 * min(expected["losses"])  # there is something to follow
    assert ours["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    for name, values in expected["state"].items():
        assert ours["state"][name] == pytest.approx(values, abs=1e-4), name


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", FLOAT64)
def test_workers__follow_one_exactly_in_float64(
    seen: dict[str, dict[str, Any]], case: str, place: str
) -> None:
    one, ours = seen["1-0"][case], seen[place][case]
    assert ours["losses"] == pytest.approx(one["losses"], abs=1e-10)
    for name, values in one["state"].items():
        assert ours["state"][name] == pytest.approx(values, abs=1e-9), name


@pytest.mark.parametrize("case", FLOAT32 + FLOAT64)
def test_one_worker__is_torchs_batch_norm(seen: dict[str, dict[str, Any]], case: str) -> None:
    """But for unbiased variances where a half has one row, which torch's batch norm gets twice."""
    plain, ours = seen["plain"][case], seen["1-0"][case]
    assert ours["losses"] == pytest.approx(plain["losses"], abs=1e-12)
    if "stored" not in case:
        assert ours["state"] == plain["state"]


def test_train__one_worker_counts_a_lone_sample_once() -> None:
    """It is passed twice, for batch norm needs two values; several workers count it once."""
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 1), dtype=np.uint8)
    labeled = LabeledSet(np.array([7]), image, np.array([1]))
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2))
    settings = TrainSettings(steps=1, clean_weight=1.0, sync_batch_norm=True)
    train(model, labeled, settings, seed=0, round_index=0)
    moved = model.state_dict()["0.running_var"].item()
    assert moved == pytest.approx(0.9 + 0.1 * np.var(image / 255, ddof=1))


def output_and_gradient(layer: nn.Module, images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradient of the images under a loss that is the sum of factors times output."""
    points = images.clone().requires_grad_()
    output = layer(points)
    (output * factors).sum().backward()
    assert points.grad is not None
    return output.detach(), points.grad


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1}]
)
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 2, 2)])
def test_sync_batch_norm__rows_that_do_not_count(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """They are normalized, but move neither the others nor the statistics."""
    generator = torch.Generator().manual_seed(0)
    images = 50 + torch.randn(shape, dtype=torch.float64, generator=generator)
    factors = torch.randn(shape, dtype=torch.float64, generator=generator)
    counts = torch.tensor([1, 0, 1, 1, 0, 1])
    rows = counts > 0
    factors[~rows] = 0
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    theirs = kind(3, **options).double()
    ours = synchronize_batch_norm(kind(3, **options).double())
    assert isinstance(ours, SyncBatchNorm)
    for scale in (1.0, 2.0):
        expected, expected_gradient = output_and_gradient(theirs, scale * images[rows], factors[rows])
        with counting(ours, counts):
            output, gradient = output_and_gradient(ours, scale * images, factors)
        torch.testing.assert_close(output[rows], expected)
        torch.testing.assert_close(gradient[rows], expected_gradient)
        assert (gradient[~rows] == 0).all()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_sync_batch_norm__no_row_counts() -> None:
    layer = SyncBatchNorm(3)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with counting(layer, torch.zeros(4)):
        assert torch.isfinite(layer(torch.randn(4, 3))).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_sync_batch_norm__a_large_mean_does_not_drown_the_variance() -> None:
    images = 1e4 + torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = SyncBatchNorm(3)
    with counting(layer, torch.ones(64)):  # the code of several workers
        output = layer(images)
    exact = nn.BatchNorm2d(3).double()(images.double())
    torch.testing.assert_close(output.double(), exact, atol=2e-3, rtol=0)


def test_sync_batch_norm__keeps_bf16() -> None:
    images = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    layer = SyncBatchNorm(3)
    with counting(layer, torch.ones(8)):
        output = layer(images.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), nn.BatchNorm2d(3)(images), atol=0.03, rtol=0.03)


def test_sync_batch_norm__names_a_model_that_folds_dimensions() -> None:
    layer = SyncBatchNorm(3)
    with counting(layer, torch.ones(4)), pytest.raises(ValueError, match="12 rows of a batch of 4"):
        layer(torch.randn(12, 3))


def test_synchronize_batch_norm__shares_parameters_and_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)), nn.Flatten())
    before = model.state_dict(keep_vars=True)
    model[1].eval()
    assert synchronize_batch_norm(model) is model
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    layer = model[1][0]
    assert isinstance(layer, SyncBatchNorm)
    assert (layer.training, layer.momentum) == (False, 0.3)
    synchronize_batch_norm(model)
    assert model[1][0] is layer


def test_counting__ends() -> None:
    layer = SyncBatchNorm(3)
    with counting(layer, torch.ones(4)):
        assert layer.counts is not None
    assert layer.counts is None

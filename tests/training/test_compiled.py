"""By the backend that traces but does not generate code, which takes a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.compiled import compiled
from dm2at_ray.training.optimizer import make_optimizer
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.step import train_step


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("chosen", [{"passes": "shared", "attack_mode": "train"}, {"precision": "bf16"}])
def test_compiled__same_names_same_training(
    chosen: dict[str, Any], make_model: Callable[..., nn.Module], make_labeled: Callable[..., LabeledSet]
) -> None:
    settings = TrainSettings(attack="fgsm", learning_rate=0.05, **chosen)
    labeled = make_labeled(9)
    plain, model = make_model(batch_norm=True), make_model(batch_norm=True)
    assert compiled(model, backend="aot_eager") is model
    sums: list[list[float]] = []
    for network in (plain, model):
        optimizer = make_optimizer(network.train(), settings)
        for rows in (np.arange(4), np.arange(4, 9), np.arange(4)):  # two sizes of batch
            batch = load_batch(
                PlacedSet(labeled, torch.device("cpu")), rows, 0, settings, seed=0, round_index=0, epoch=0
            )
            sums.append(
                train_step(network, network, optimizer, batch, settings, global_count=len(rows)).tolist()
            )
    np.testing.assert_allclose(sums[3:], sums[:3], rtol=1e-2 if "precision" in chosen else 1e-5)
    expected = plain.state_dict()
    assert list(model.state_dict()) == list(expected)
    if "precision" not in chosen:
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)

"""Evaluation on the digits, piece by piece in this process, against plain loops over the images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchattacks
from sklearn.datasets import load_digits

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.config import Config
from dm2at_ray.pool import check_part, open_source, part_name
from dm2at_ray.stages import evaluate as evaluate_module
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.evaluate import EvaluationPlan, evaluate

from .digits_run import SOURCE, DigitsRun

NODE = "10.0.0.1"
EPSILON = 0.1
IMAGES = 150


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands for Ray Data; sizes of the pieces of work that were handed out."""
    sizes: list[int] = []

    def map_pieces(
        pieces: pa.Table, worker: Any, context: StageContext, *args: Any, **_: Any
    ) -> Iterator[pa.Table]:
        # Backwards: pieces come in no particular order.
        for row in reversed(range(len(pieces))):
            piece = {name: pieces[name].slice(row, 1).to_numpy() for name in pieces.column_names}
            sizes.append(int(piece["end"][0] - piece["begin"][0]))
            yield worker(context, *args)(piece)

    monkeypatch.setattr(evaluate_module, "map_pieces", map_pieces)
    monkeypatch.setattr(evaluate_module, "results", lambda parts: ((part, NODE) for part in parts))
    return sizes


@pytest.fixture
def held_out(digits_run: DigitsRun) -> tuple[torch.Tensor, torch.Tensor]:
    """List the held-out images; returns images (N, 1, 8, 8) and labels (N,) from scikit-learn itself."""
    source = open_source(SOURCE)
    (table,) = source.tables("test")
    part = check_part(source, table, 0, image_size=8, channels=1)
    digits_run.directory.manifest_files("test").write_table(part_name(0), part)
    digits, rows = load_digits(), part["row"].to_numpy()
    x = torch.from_numpy(np.rint(digits.images[rows] * 255 / 16) / 255).float()[:, None]
    return x, torch.from_numpy(digits.target[rows])


@pytest.fixture
def context(digits_run: DigitsRun) -> StageContext:
    """Round 1 of the run, its model fitted a little to the digits so that it has something to lose."""
    context = replace(digits_run.context(1), batch_size=32)
    model = context.trained_model()
    x = torch.from_numpy(digits_run.images).permute(0, 3, 1, 2).float() / 255
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(64):
        loss = torch.nn.functional.cross_entropy(model(x[rows]), torch.from_numpy(digits_run.labels)[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return context


def plan(**changes: Any) -> EvaluationPlan:
    default = EvaluationPlan(EPSILON, pgd_steps=3, pgd_step_size=0.05, pgd_restarts=1, images=IMAGES)
    return replace(default, **changes)


def measure(context: StageContext, plan: EvaluationPlan) -> dict[str, Any]:
    told: list[tuple[int, int, str | None]] = []
    measured = evaluate(context, plan, lambda done, total, node=None: told.append((done, total, node)))
    assert told[-1] == (plan.images, plan.images, NODE)
    return measured


def restart_of_torchattacks(
    context: StageContext, x: torch.Tensor, y: torch.Tensor, restart: int, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """PGD of torchattacks from the same start: which images are right after it."""
    draws = uniform(context.seed, 1, Stream.ATTACK, np.arange(len(x)), 64 * (restart + 1))[:, 64 * restart :]
    start = torch.from_numpy(EPSILON * (2 * draws - 1)).float().reshape(x.shape)
    attack = torchattacks.PGD(context.trained_model(), eps=EPSILON, alpha=0.05, steps=3, random_start=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", lambda *_: start)
        return context.trained_model()(attack(x, y)).argmax(dim=1) == y


@pytest.mark.parametrize("restarts", [1, 4])
def test_evaluate__pgd_counts_what_is_right_after_every_restart(
    context: StageContext, held_out: Any, pieces: list[int], restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (part[:IMAGES] for part in held_out)
    right = torch.ones(IMAGES, dtype=torch.bool)
    once = None
    for restart in range(restarts):
        right &= restart_of_torchattacks(context, x, y, restart, monkeypatch)
        once = right.clone() if once is None else once
    assert once is not None
    assert 0 < right.sum() < IMAGES
    assert restarts == 1 or right.sum() < once.sum()

    measured = measure(context, plan(pgd_restarts=restarts))

    assert measured["accuracy"]["pgd"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert measured["accuracy_by_class"]["pgd"] == pytest.approx(
        [right[y == digit].float().mean().item() for digit in range(10)], abs=1e-6
    )


def test_evaluate__clean_and_fgsm_as_a_plain_loop_has_them(
    context: StageContext, held_out: Any, pieces: list[int]
) -> None:
    x, y = (part[:IMAGES] for part in held_out)
    model = context.trained_model()
    attacked = {"clean": x, "fgsm": torchattacks.FGSM(model, eps=EPSILON)(x, y)}

    measured = measure(context, plan())

    for attack, images in attacked.items():
        share = (model(images).argmax(dim=1) == y).float().mean().item()
        assert measured["accuracy"][attack] == pytest.approx(share, abs=1e-6)
        low, high = measured["accuracy_interval"][attack]
        assert low < share < high
    assert measured["images_by_class"] == np.bincount(y, minlength=10).tolist()
    assert json.loads(json.dumps(measured)) == measured


def test_evaluate__an_image_that_is_broken_is_not_attacked_again(
    context: StageContext, held_out: Any, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[int, ...]] = []
    pgd = evaluate_module.pgd

    def counted(model: Any, x: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        batches.append(tuple(x.shape))
        return pgd(model, x, *args, **settings)

    monkeypatch.setattr(evaluate_module, "pgd", counted)
    # 128 images are one piece of four batches.
    shares = [
        measure(context, plan(attacks=("pgd",), pgd_restarts=restarts, images=128))["accuracy"]["pgd"]
        for restarts in (1, 2)
    ]
    left = round(128 * shares[0])
    assert pieces == [128, 128]
    assert set(batches) == {(32, 1, 8, 8)}
    assert len(batches) == 4 + 4 + -(-left // 32) < 12


def test_evaluate__does_not_depend_on_the_pieces(
    context: StageContext, held_out: Any, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = measure(context, plan(pgd_restarts=2))
    assert pieces == [22, 128]
    monkeypatch.setattr(evaluate_module, "BATCHES_PER_PIECE", 1)
    assert measure(context, plan(pgd_restarts=2)) == together
    assert pieces[2:] == [22, 32, 32, 32, 32]


def test_evaluate__autoattack_takes_each_batch_by_itself_and_spares_the_padding(
    context: StageContext, held_out: Any, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def autoattack(
        model: Any, x: torch.Tensor, y: torch.Tensor, epsilon: float, *, num_classes: int, seed: int
    ) -> torch.Tensor:
        assert (epsilon, num_classes, seed) == (EPSILON, 10, context.seed)
        seen.append(len(x))
        return torchattacks.FGSM(model, eps=epsilon)(x, y)

    monkeypatch.setattr(evaluate_module, "autoattack", autoattack)
    measured = measure(context, plan(attacks=("fgsm", "autoattack")))
    assert seen == pieces == [22, 32, 32, 32, 32]
    assert measured["accuracy"]["autoattack"] == measured["accuracy"]["fgsm"]


def test_plan__of_a_config() -> None:
    config = Config.from_mapping({"attack": {"epsilon": "8/255"}, "evaluation": {"pgd_steps": 10}})
    asked = EvaluationPlan.of(config, held_out=344)
    assert asked.attacks == ("clean", "fgsm", "pgd")
    assert (asked.images, asked.pgd_restarts) == (344, 1)
    assert asked.pgd_step_size == pytest.approx(2 / 255)

    evaluation = {"pgd_step_size": "1/255", "pgd_restarts": 5, "max_images": 100}
    asked = EvaluationPlan.of(Config.from_mapping({"evaluation": evaluation}), held_out=344)
    assert (asked.images, asked.pgd_restarts, asked.pgd_step_size) == (100, 5, 1 / 255)

"""The three gloo workers of test_sync_batch_norm.py, in a process tree of their own.

Usage: sync_workers.py DIRECTORY. Trains every case with 1, 2 and 3 workers in turn; each writes what it saw.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what the first optimizer imports: once here is cheaper than in every worker
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.optimizer import make_optimizer
from dm2at_ray.training.order import epoch_order
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.step import train_step
from dm2at_ray.training.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm

STEPS = {torch.float32: 20, torch.float64: 8}
FGSM: dict[str, Any] = {"attack": "fgsm", "attack_mode": "train"}
STORED: dict[str, Any] = {"passes": "two", "adversaries": "stored"}
CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "joint": (torch.float32, {"passes": "joint"}),
    "two": (torch.float32, {"passes": "two"}),
    "shared": (torch.float32, {"passes": "shared", **FGSM}),
    "adversarial in train mode": (
        torch.float64,
        {"passes": "two", "clean_weight": 0.0, "attack_mode": "train"},
    ),
    "joint, both, GradAlign": (
        torch.float64,
        {"passes": "joint", "adversaries": "both", "grad_align": 0.3, **FGSM},
    ),
    "shared, GradAlign": (torch.float64, {"passes": "shared", "grad_align": 0.3, **FGSM}),
    "stored": (torch.float64, STORED),
    "stored, adversarial": (torch.float64, {**STORED, "clean_weight": 0.0}),
    "shared, empty shares": (torch.float64, {"passes": "shared", "batch_size": 2, **FGSM}),
    "stored, empty shares": (torch.float64, {**STORED, "batch_size": 2}),
}
SAMPLES = {2: 22, 5: 23}
"""By batch size. Three workers share batches of 5 and 4 (2, 2, 1 and 2, 1, 1), or of 2 (1, 1, 0)."""


def make_labeled(count: int) -> LabeledSet:
    generator = np.random.default_rng(3)
    images = generator.integers(1, 256, (count, 6, 6, 1), dtype=np.uint8)
    labels = generator.integers(0, 3, count)
    return LabeledSet(np.arange(count) + 100, images, labels, 255 - images, np.arange(count) % 3 == 0)


def make_model(*, flat_norm: bool) -> nn.Module:
    """Smooth, so that a difference in the last digit does not change a sign.

    `flat_norm` adds one of (M, C), which two rows are not enough for: it would make them 1 and -1, and a
    gradient of 0 has no sign but that of its rounding.
    """
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8, momentum=None),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.BatchNorm1d(16, affine=False) if flat_norm else nn.Tanh(),
        nn.Linear(16, 3),
    ]
    return nn.Sequential(*layers)


def run(case: str, rank: int, workers: int, *, synchronized: bool) -> dict[str, Any]:
    dtype, chosen = CASES[case]
    settings = TrainSettings(
        **{"batch_size": 5, "clean_weight": 0.4, "epsilon": 0.1, "learning_rate": 0.05, **chosen}
    )
    labeled = make_labeled(SAMPLES[settings.batch_size])
    flat_norm = settings.adversaries != "stored" and settings.batch_size > 2
    bare = make_model(flat_norm=flat_norm).to(dtype).train()
    if synchronized:
        bare = synchronize_batch_norm(bare)
        assert sum(isinstance(module, SyncBatchNorm) for module in bare.modules()) == 2 + flat_norm
    optimizer = make_optimizer(bare, settings)
    model = DistributedDataParallel(bare) if workers > 1 else bare
    losses: list[float] = []
    while len(losses) < STEPS[dtype]:
        epoch, step = divmod(len(losses), 11 if settings.batch_size == 2 else 5)
        order = epoch_order(labeled.sample_ids, settings.batch_size, seed=4, round_index=1, epoch=epoch)
        rows = order.global_batch(step)
        batch = load_batch(
            PlacedSet(labeled, torch.device("cpu")),
            order.share(step, rank, workers),
            int(rows[0]),
            settings,
            seed=4,
            round_index=1,
            epoch=epoch,
        )
        batch = dataclasses.replace(
            batch, images=batch.images.to(dtype), twins=batch.twins.to(dtype), weights=batch.weights.to(dtype)
        )
        sums = train_step(model, bare, optimizer, batch, settings, global_count=len(rows), world_size=workers)
        if workers > 1:
            dist.all_reduce(sums)
        losses.append(float(sums[6] / sums[7]))
    state = {name: tensor.double().flatten().tolist() for name, tensor in bare.state_dict().items()}
    return {"losses": losses, "state": state}


def work(directory: Path, rank: int) -> None:
    torch.set_num_threads(1)
    for workers in (1, 2, 3):
        if rank >= workers:
            continue
        store = f"file://{directory / f'store-{workers}'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
        seen = {case: run(case, rank, workers, synchronized=True) for case in CASES}
        dist.destroy_process_group()
        (directory / f"{workers}-{rank}.json").write_text(json.dumps(seen))


def plain(directory: Path) -> None:
    """One process and torch's own batch norm: what the others are to follow."""
    torch.set_num_threads(1)
    seen = {case: run(case, 0, 1, synchronized=False) for case in CASES}
    (directory / "plain.json").write_text(json.dumps(seen))


def main(directory: Path) -> None:
    # Forked, so that torch is imported once; safe because this process has run no backward pass.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(directory, rank)) for rank in range(3)]
    processes.append(context.Process(target=plain, args=(directory,)))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

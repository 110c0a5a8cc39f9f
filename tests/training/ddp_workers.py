"""The three gloo workers of test_distributed.py, in a process tree of their own.

Usage: ddp_workers.py DIRECTORY. Trains with 1, 2 and 3 workers in turn; each writes what it saw.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what the first optimizer imports: once here is cheaper than in every worker
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from dm2at_ray.training import LabeledSet, LossMeans, NonFiniteLossError, TrainSettings, loop, train

SAMPLES = 13
LOOKED_AT = 500
BATCH = 2  # fewer than 3 workers, and the last batch is one sample: some shares are empty
SETTINGS = TrainSettings(
    epochs=3,
    min_steps=0,
    batch_size=BATCH,
    learning_rate=0.05,
    attack="rs_fgsm",
    adversaries="both",
    clean_weight=0.4,
    augment="flip_shift",
)


def make_labeled() -> LabeledSet:
    generator = np.random.default_rng(3)
    images = generator.integers(1, 256, (SAMPLES, 6, 6, 1), dtype=np.uint8)
    labels = generator.integers(0, 3, SAMPLES)
    return LabeledSet(np.arange(SAMPLES) + 100, images, labels, 255 - images, np.arange(SAMPLES) % 3 > 0)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 16), nn.GELU(), nn.Linear(16, 3)
    )


def make_watched() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))


class FailsOnBlack(nn.Module):
    """Not a number for an image that is black all over."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, images: Tensor) -> Tensor:
        brightest = images.flatten(1).amax(dim=1, keepdim=True)
        return self.head(images.flatten(1)) + 0 * brightest.log()


def losses_of(model: nn.Module, rank: int, world_size: int) -> dict[str, Any]:
    losses: list[float] = []
    forwards = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal forwards
        forwards += module.training

    def note(done: int, total: int, means: LossMeans) -> None:
        assert (done, total) == (len(losses) + 1, 21)
        losses.append(means.total)

    epochs: list[int] = []
    model.register_forward_hook(count)
    result = train(
        model,
        make_labeled(),
        SETTINGS,
        seed=4,
        round_index=1,
        rank=rank,
        world_size=world_size,
        on_step=note,
        on_epoch=lambda report, make_state: epochs.append(report.epoch),
    )
    return {
        "losses": losses,
        "epochs": epochs,
        "forwards": forwards,
        "images": result.images_seen,
        "clean": result.clean_accuracy,
        "adversarial": result.adversarial_accuracy,
    }


def stability_of(model: nn.Module, rank: int, world_size: int) -> dict[str, Any]:
    """What a training is told by its looks at a held-out part, with batch norm and an average of weights."""
    generator = np.random.default_rng(5)
    images = generator.integers(1, 256, (LOOKED_AT, 6, 6, 1), dtype=np.uint8)
    labeled = LabeledSet(np.arange(LOOKED_AT), images, (images[:, 0, 0, 0] > 128).astype(np.int64))
    settings = TrainSettings(epochs=2, min_steps=0, batch_size=100, learning_rate=0.02, epsilon=0.01, ema=0.5)
    result = train(model, labeled, settings, seed=4, round_index=1, rank=rank, world_size=world_size)
    return asdict(result.stability)


def error_of(rank: int, world_size: int) -> dict[str, Any]:
    labeled = make_labeled()
    labeled.images[8] = 0
    settings = TrainSettings(clean_weight=1.0, batch_size=7)
    try:
        train(FailsOnBlack(), labeled, settings, seed=4, round_index=1, rank=rank, world_size=world_size)
    except NonFiniteLossError as error:
        return {"epoch": error.epoch, "step": error.step, "ids": error.sample_ids, "text": str(error)}
    raise AssertionError("the loss should not have been finite")


def work(directory: Path, rank: int) -> None:
    torch.set_num_threads(1)
    loop.STEPS_PER_LOOK = 1
    for world_size in (1, 2, 3):
        if rank >= world_size:
            continue
        store = f"file://{directory / f'store-{world_size}'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        model = make_model()
        seen = losses_of(model, rank, world_size)
        seen["error"] = error_of(rank, world_size)
        watched = make_watched()
        seen["stability"] = stability_of(watched, rank, world_size)
        seen["watched"] = {
            name: tensor.double().sum().item() for name, tensor in watched.state_dict().items()
        }
        dist.destroy_process_group()
        (directory / f"{world_size}-{rank}.json").write_text(json.dumps(seen))
        save_file(model.state_dict(), directory / f"{world_size}-{rank}.safetensors")


def main(directory: Path) -> None:
    # Forked, so that torch is imported once; safe because this process has run no backward pass.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(directory, rank)) for rank in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

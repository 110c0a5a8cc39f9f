"""The training loop of one worker: Step 8 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.draws import epoch_seed
from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.order import EpochOrder, epoch_order
from dm2at_ray.training.report import EpochReport, LossMeans, TrainResult, accuracies, image_count, loss_means
from dm2at_ray.training.schedule import learning_rate
from dm2at_ray.training.settings import TrainSettings
from dm2at_ray.training.state import TrainState
from dm2at_ray.training.step import train_step
from dm2at_ray.training.watch import LossWatch, NonFiniteLossError

STEPS_PER_LOOK = 10
"""Steps between two looks at the losses: each look makes the device wait and the workers meet."""

OnEpoch = Callable[[EpochReport, Callable[[], TrainState]], None]
OnStep = Callable[[int, int, LossMeans], None]


@dataclass(frozen=True)
class _Worker:
    """What is the same in every step of one worker."""

    model: nn.Module
    """Wrapped in DistributedDataParallel where there are several workers."""

    bare: nn.Module
    optimizer: torch.optim.Optimizer
    labeled: LabeledSet
    settings: TrainSettings
    seed: int
    round_index: int
    rank: int
    world_size: int
    device: torch.device
    epochs: int
    on_step: OnStep | None


def train(
    model: nn.Module,
    labeled: LabeledSet,
    settings: TrainSettings,
    *,
    seed: int,
    round_index: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    start: TrainState | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train `model` in place, as one of `world_size` workers that all call this with the same arguments.

    Any number of workers trains as one would: batches are global, and every draw belongs to a sample. (Models
    with batch norm differ, for each worker normalizes by its own share, and so do models with dropout.) A
    training started from a state that an earlier one captured goes on, bitwise on the same CPU, as the uncut
    one.

    Args:
        model: The bare model, maps (N, C, H, W) pixels in [0, 1] to logits (N, classes). Left in eval mode.
        labeled: The whole labeled set, the same on all workers.
        settings: How to train.
        seed: Seed of the run.
        round_index: Round of the run.
        rank: Of this worker, from 0.
        world_size: Workers; above 1, `torch.distributed` is initialised.
        device: Of this worker.
        start: Where to go on; None starts with the model's weights as they are.
        on_epoch: Called on every worker after every epoch, with a function that copies the state.
        on_step: Called on rank 0 now and then: steps done, steps to do, mean losses since the last call.

    Returns:
        The same on all workers, but for the seconds.

    Raises:
        NonFiniteLossError: The loss became infinite or not a number; on all workers.
        ValueError: The labeled set is empty, or `settings.sync_batch_norm` is on without a GPU.
    """
    if not len(labeled):
        raise ValueError("the labeled set is empty")
    device = _with_index(torch.device(device))
    bare = _prepare(model, settings, device, world_size)
    optimizer = make_optimizer(bare, settings)
    report = None
    if start is not None:
        start.restore(bare, optimizer)
        report = start.report
    worker = _Worker(
        model=_distribute(bare, device) if world_size > 1 else bare,
        bare=bare,
        optimizer=optimizer,
        labeled=labeled,
        settings=settings,
        seed=seed,
        round_index=round_index,
        rank=rank,
        world_size=world_size,
        device=device,
        epochs=settings.epochs_for(len(labeled)),
        on_step=on_step,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while report is None or report.epoch < worker.epochs:
            report = _train_epoch(worker, report)
            if on_epoch is not None:
                on_epoch(report, partial(TrainState.capture, bare, optimizer, report))
    bare.eval()
    return TrainResult.of(report)


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters; its learning rate is set anew in every step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def _train_epoch(worker: _Worker, before: EpochReport | None) -> EpochReport:
    began = time.perf_counter()
    epoch = before.epoch if before is not None else 0
    labeled, settings = worker.labeled, worker.settings
    order = epoch_order(
        labeled.sample_ids,
        settings.batch_size,
        seed=worker.seed,
        round_index=worker.round_index,
        epoch=epoch,
    )
    # Dropout draws from torch's own generator: seeded by epoch, a resumed training repeats it.
    torch.manual_seed(epoch_seed(worker.seed, epoch) ^ (worker.round_index << 16) ^ worker.rank)
    worker.model.train()
    watch = LossWatch(worker.world_size)
    total_steps = worker.epochs * order.steps
    for step in range(order.steps):
        watch.add(_train_batch(worker, order, epoch, step))
        if (step + 1) % STEPS_PER_LOOK == 0 or step + 1 == order.steps:
            sums, first_bad = watch.flush()
            if first_bad is not None:
                sample_ids = labeled.sample_ids[order.global_batch(first_bad)].tolist()
                raise NonFiniteLossError(worker.round_index, epoch, first_bad, sample_ids)
            if worker.on_step is not None and worker.rank == 0:
                worker.on_step(epoch * order.steps + step + 1, total_steps, loss_means(sums))
    if worker.world_size > 1:
        _share_buffers(worker.bare)
    clean_accuracy, adversarial_accuracy = accuracies(watch.epoch_sums)
    done = epoch + 1
    return EpochReport(
        epoch=done,
        epochs=worker.epochs,
        steps=done * order.steps,
        images_seen=(before.images_seen if before else 0) + image_count(watch.epoch_sums),
        seconds=(before.seconds if before else 0.0) + time.perf_counter() - began,
        clean_accuracy=clean_accuracy,
        adversarial_accuracy=adversarial_accuracy,
        loss=loss_means(watch.epoch_sums),
        checkpoint_due=done % settings.checkpoint_every == 0 or done == worker.epochs,
    )


def _train_batch(worker: _Worker, order: EpochOrder, epoch: int, step: int) -> Tensor:
    settings = worker.settings
    rate = learning_rate(
        settings.schedule,
        settings.learning_rate,
        step=epoch * order.steps + step,
        total_steps=worker.epochs * order.steps,
    )
    for group in worker.optimizer.param_groups:
        group["lr"] = rate
    rows = order.global_batch(step)
    batch = load_batch(
        worker.labeled,
        order.share(step, worker.rank, worker.world_size),
        filler=int(rows[0]),
        settings=settings,
        seed=worker.seed,
        round_index=worker.round_index,
        epoch=epoch,
        device=worker.device,
    )
    return train_step(
        worker.model,
        worker.bare,
        worker.optimizer,
        batch,
        settings,
        global_count=len(rows),
        world_size=worker.world_size,
    )


def _prepare(model: nn.Module, settings: TrainSettings, device: torch.device, world_size: int) -> nn.Module:
    if settings.sync_batch_norm:
        if device.type != "cuda":
            raise ValueError(f"sync_batch_norm needs a GPU, but the device is {device}")
        if world_size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device)


def _share_buffers(model: nn.Module) -> None:
    """Give all workers rank 0's buffers, as DistributedDataParallel does, but only before its next pass.

    An attack comes before that pass. It would be made with each worker's own running statistics of batch
    norm, and after a resume with those of the checkpoint, rank 0's: not the training that was cut off.
    """
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def _with_index(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _distribute(bare: nn.Module, device: torch.device) -> nn.Module:
    return DistributedDataParallel(bare, device_ids=[device] if device.type == "cuda" else None)

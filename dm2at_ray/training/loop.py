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
from dm2at_ray.training.compiled import compiled
from dm2at_ray.training.draws import epoch_seed
from dm2at_ray.training.ema import WeightAverage
from dm2at_ray.training.labeled import LabeledSet
from dm2at_ray.training.layout import prefer_channels_last
from dm2at_ray.training.lookout import Lookout, post_lookout
from dm2at_ray.training.optimizer import make_optimizer
from dm2at_ray.training.order import EpochOrder, epoch_order
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.report import (
    EpochReport,
    LossMeans,
    Stability,
    TrainResult,
    accuracies,
    image_count,
    loss_means,
)
from dm2at_ray.training.schedule import learning_rate
from dm2at_ray.training.settings import TrainSettings
from dm2at_ray.training.state import TrainState
from dm2at_ray.training.step import train_step
from dm2at_ray.training.sync_batch_norm import synchronize_batch_norm
from dm2at_ray.training.transfer import to_pixels
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
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    placed: PlacedSet
    """What is trained on: without the held-out part."""

    lookout: Lookout
    settings: TrainSettings
    """As the training began; those of a step are the lookout's."""

    seed: int
    round_index: int
    rank: int
    world_size: int
    device: torch.device
    epochs: int
    total_steps: int
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
    with dropout differ, and those with batch norm that is not synchronized, for each worker normalizes by its
    own share.) A training started from a state that an earlier one captured goes on, bitwise on the same CPU,
    as the uncut one.

    Part of a large enough labeled set is held out (`hold_out`). Every few epochs a look at it measures the
    model that would be used, and the training's collapse is answered as `settings.on_collapse` says
    (`Lookout`).

    Args:
        model: The bare model, maps (N, C, H, W) pixels in [0, 1] to logits (N, classes). Left in eval mode
            with the weights that are the result.
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
        CollapseError: The training collapsed under `on_collapse: fail`; on all workers.
        ValueError: The labeled set is empty.
    """
    if not len(labeled):
        raise ValueError("the labeled set is empty")
    device = _with_index(torch.device(device))
    bare = synchronize_batch_norm(model) if settings.sync_batch_norm else model
    bare = bare.to(device)
    prefer_channels_last(bare, to_pixels(labeled.images[:2], device))
    optimizer = make_optimizer(bare, settings)
    average = WeightAverage(bare, settings.ema) if settings.ema > 0 else None
    report = None
    if start is not None:
        start.restore(bare, optimizer, average)
        report = start.report
    trained_on, lookout = post_lookout(
        settings,
        labeled,
        start,
        seed=seed,
        round_index=round_index,
        rank=rank,
        world_size=world_size,
        device=device,
    )
    worker = _Worker(
        model=_distribute(compiled(bare) if settings.compile else bare, device, world_size),
        bare=bare,
        average=average,
        optimizer=optimizer,
        placed=PlacedSet(trained_on, device),
        lookout=lookout,
        settings=settings,
        seed=seed,
        round_index=round_index,
        rank=rank,
        world_size=world_size,
        device=device,
        epochs=settings.epochs_for(len(trained_on)),
        total_steps=settings.steps_for(len(trained_on)),
        on_step=on_step,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while report is None or not report.is_last:
            report = _train_epoch(worker, report)
            if on_epoch is not None:
                on_epoch(report, partial(_capture, worker, report))
    result = lookout.result(average)
    if result is not None:
        bare.load_state_dict(result)
    bare.eval()
    return TrainResult.of(report)


def _train_epoch(worker: _Worker, before: EpochReport | None) -> EpochReport:
    began = time.perf_counter()
    epoch = before.epoch if before is not None else 0
    labeled, settings = worker.placed.labeled, worker.settings
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
    before_epoch = epoch * order.steps
    steps = min(order.steps, worker.total_steps - before_epoch)
    for step in range(steps):
        watch.add(_train_batch(worker, order, epoch, step))
        if worker.average is not None:
            worker.average.update(worker.bare)
        if (step + 1) % STEPS_PER_LOOK == 0 or step + 1 == steps:
            sums, first_bad = watch.flush()
            if first_bad is not None:
                raise _non_finite(worker, order, epoch, first_bad)
            if worker.on_step is not None and worker.rank == 0:
                worker.on_step(before_epoch + step + 1, worker.total_steps, loss_means(sums))
    if worker.world_size > 1:
        _share_buffers(worker.bare)
        if worker.average is not None:
            _share_buffers(worker.average.model)
    # No checkpoint may take the place of the last good one that holds what the next loss would only show.
    if not _is_finite(worker.bare):
        raise _non_finite(worker, order, epoch, steps - 1, "the weights are")
    done, lookout = epoch + 1, worker.lookout
    if lookout.is_due(done, worker.epochs):
        lookout.look(worker.bare, worker.average, worker.optimizer, epoch=done, step=before_epoch + steps)
    clean_accuracy, adversarial_accuracy = accuracies(watch.epoch_sums)
    return EpochReport(
        epoch=done,
        epochs=worker.epochs,
        steps=before_epoch + steps,
        images_seen=(before.images_seen if before else 0) + image_count(watch.epoch_sums),
        seconds=(before.seconds if before else 0.0) + time.perf_counter() - began,
        clean_accuracy=clean_accuracy,
        adversarial_accuracy=adversarial_accuracy,
        loss=loss_means(watch.epoch_sums),
        checkpoint_due=done % settings.checkpoint_every == 0 or done == worker.epochs or lookout.stops,
        stability=Stability(
            held_out=lookout.images,
            epochs_between_looks=lookout.every,
            looks=lookout.looks,
            attack=lookout.settings.attack,
            stopped_early=lookout.stops,
            outcome=lookout.outcome,
        ),
    )


def _train_batch(worker: _Worker, order: EpochOrder, epoch: int, step: int) -> Tensor:
    settings = worker.lookout.settings
    done = epoch * order.steps + step
    rate = learning_rate(settings.schedule, settings.learning_rate, step=done, total_steps=worker.total_steps)
    for group in worker.optimizer.param_groups:
        group["lr"] = rate
    rows = order.global_batch(step)
    batch = load_batch(
        worker.placed,
        order.share(step, worker.rank, worker.world_size),
        filler=int(rows[0]),
        settings=settings,
        seed=worker.seed,
        round_index=worker.round_index,
        epoch=epoch,
    )
    return train_step(
        worker.model,
        worker.bare,
        worker.optimizer,
        batch,
        settings,
        global_count=len(rows),
        world_size=worker.world_size,
        epsilon=settings.epsilon_at(done, worker.total_steps),
    )


def _capture(worker: _Worker, report: EpochReport) -> TrainState:
    return TrainState.capture(worker.bare, worker.optimizer, report, worker.average, worker.lookout.best)


def _non_finite(
    worker: _Worker, order: EpochOrder, epoch: int, step: int, what: str = "loss is"
) -> NonFiniteLossError:
    sample_ids = worker.placed.labeled.sample_ids[order.global_batch(step)].tolist()
    return NonFiniteLossError(worker.round_index, epoch, step, sample_ids, what)


def _is_finite(model: nn.Module) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in model.state_dict().values()]).all())


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


def _distribute(bare: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    if world_size == 1:
        return bare
    return DistributedDataParallel(bare, device_ids=[device] if device.type == "cuda" else None)

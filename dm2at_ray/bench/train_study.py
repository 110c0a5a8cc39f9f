"""The benchmark of training: the same model and images for every loop, all in one process."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from dm2at_ray.bench.images import LabeledImages, load_images
from dm2at_ray.bench.loops import OurLoop, PlainLoop, clean_step, textbook_fgsm_step
from dm2at_ray.bench.machine import OtherLoad, machine_facts
from dm2at_ray.bench.train_report import TrainReport
from dm2at_ray.bench.train_settings import Speed, TrainBenchSettings
from dm2at_ray.bench.turns import rates_in_turns
from dm2at_ray.errors import RunError
from dm2at_ray.models import Classifier, ModelSpec
from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.compiled import compiled
from dm2at_ray.training.optimizer import make_optimizer

SAMPLES = 8192
"""About so many are trained on: the float32 copy that the plain loops take fits any device."""

Progress = Callable[[str], None]


def train_study(settings: TrainBenchSettings, progress: Progress) -> TrainReport:
    """Time clean training, the textbook's FGSM loop and ours by turns.

    Args:
        settings: what to do.
        progress: told in a line what begins.

    Raises:
        ModelError: no model has this name, or it does not take the images.
        PoolError: images cannot be read.
        RunError: a loss became infinite or not a number, so that no time means anything.
    """
    device = torch.device(settings.device)
    torch.set_num_threads(settings.thread_count())
    speed = settings.speed()
    images = load_images(settings.images)
    labeled = labeled_set(images, speed)
    loops = make_loops(settings, labeled, images.classes, device)
    others = OtherLoad()
    with torch.random.fork_rng(devices=[]):
        turns = rates_in_turns(
            loops,
            turns=settings.turns,
            seconds=settings.seconds,
            synchronize=partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None,
            progress=progress,
        )
    other_cores = others.cores()
    loss = {name: loop.last_loss() for name, loop in loops.items()}
    for name, value in loss.items():
        if not math.isfinite(value):
            raise RunError(f"the loss of {name} became {value}: its time means nothing; take another model")
    rates = {name: statistics.median(each) for name, each in turns.items()}
    return TrainReport(
        clean=rates["clean"],
        textbook_fgsm=rates["textbook_fgsm"],
        ours=rates["ours"],
        ours_default=rates.get("ours_default"),
        time_vs_textbook=rates["textbook_fgsm"] / rates["ours"],
        fraction_of_limit=rates["ours"] / (rates["clean"] / 2),
        turns=turns,
        loss=loss,
        machine=machine_facts(device),
        images=images.name,
        settings={
            **dataclasses.asdict(speed),
            "compile": settings.compile,
            "clean_weight": settings.training().clean_weight,
            "epsilon": settings.training().epsilon,
            "seconds": settings.seconds,
            "turns": settings.turns,
            "device": settings.device,
            "threads": settings.thread_count(),
            "seed": settings.seed,
        },
        other_cores=other_cores,
    )


def labeled_set(images: LabeledImages, speed: Speed) -> LabeledSet:
    """Scale real images and repeat their channel; whole batches, some images twice where there are few."""
    count = speed.batch_size * max(1, round(SAMPLES / speed.batch_size))
    ids = np.arange(count, dtype=np.int64)
    taken = ids % len(images.pixels)
    pixels = images.pixels[torch.from_numpy(taken)][:, None].float()  # (M, 1, S, S)
    if pixels.shape[2] != speed.image_size:
        pixels = F.interpolate(pixels, size=speed.image_size, mode="bilinear", align_corners=False)
    pixels = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, speed.channels)
    return LabeledSet(ids, pixels.numpy(), images.labels[taken].astype(np.int64))


def make_loops(
    settings: TrainBenchSettings, labeled: LabeledSet, classes: int, device: torch.device
) -> dict[str, PlainLoop | OurLoop]:
    """Make every loop with a model of its own, all of the same first weights.

    Args:
        settings: of the benchmark.
        labeled: what is trained on.
        classes: logits.
        device: where to train.
    """
    speed, ours = settings.speed(), settings.training()
    spec = ModelSpec(speed.model, classes, speed.channels, speed.image_size)
    pixels = torch.from_numpy(labeled.images).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()
    labels = torch.from_numpy(labeled.labels).to(device)

    def model() -> Classifier:
        return spec.build(seed=settings.seed).to(device).train()

    def our_loop(training: TrainSettings) -> OurLoop:
        return OurLoop(model(), labeled, training, settings.seed, device)

    clean, textbook = model(), model()
    if device.type == "cuda":
        clean.to(memory_format=torch.channels_last)
    clean_optimizer = make_optimizer(clean, ours)
    forward = compiled(clean) if settings.compile else clean
    on_clean = partial(clean_step, forward, clean_optimizer, bf16=speed.precision == "bf16")
    on_both = partial(
        textbook_fgsm_step,
        textbook,
        textbook_optimizer(textbook, ours),
        epsilon=ours.epsilon,
        clean_weight=ours.clean_weight,
    )
    loops: dict[str, PlainLoop | OurLoop] = {
        "clean": PlainLoop(on_clean, pixels, labels, speed.batch_size),
        "textbook_fgsm": PlainLoop(on_both, pixels, labels, speed.batch_size),
        "ours": our_loop(ours),
    }
    if settings.defaults:
        loops["ours_default"] = our_loop(settings.default_training())
    return loops


def textbook_optimizer(model: Classifier, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD as torch makes it where nobody asks for more, of the same rates as ours."""
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )

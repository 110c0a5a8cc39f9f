"""Step 8 of Algorithm 2: data-parallel retraining on the labeled set, by Ray Train."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import get_device

from dm2at_ray.config_sections import ComputeConfig, TrainingConfig
from dm2at_ray.errors import RunError, UserError
from dm2at_ray.models import Classifier
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.labeled_set import share_labeled_set, take_labeled_set
from dm2at_ray.stages.reservations import (
    Trainer,
    release_reservations,
    reservation_prefix,
)
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.training import (
    EpochReport,
    LossMeans,
    TrainSettings,
    TrainState,
    train,
)
from dm2at_ray.training.stability import answer_in_words
from dm2at_ray.training.state import WEIGHTS

MAX_FAILURES = 3
"""Times that Ray Train starts the workers again, from the last checkpoint, after one has died."""

SECONDS_BETWEEN_LOOKS = 0.5

SNAPSHOT = "fit/checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints, below the round's `train`."""

logger = logging.getLogger(__name__)

LOOK_INTERVAL = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
"""Ray Train answers a report, and ends a training, only when it looks: every 2 s by default, a wait
at every checkpoint."""


@dataclass(frozen=True)
class WorkerTask:
    """What one training worker is told.

    Attributes:
        context: The round.
        settings: How to train.
        labeled: What `share_labeled_set` returned.
        threads: Threads of a worker on CPUs.
        warm_start: Start from the weights of the round before.
        listener: The driver, which is told the step and the losses by `training_progress` and what a look
            has measured by `training_looked`; None for nobody.
    """

    context: StageContext
    settings: TrainSettings
    labeled: ObjectRef
    threads: int
    warm_start: bool
    listener: ActorHandle | None


def retrain(
    context: StageContext,
    config: TrainingConfig,
    epsilon: float,
    compute: ComputeConfig,
    listener: ActorHandle | None,
) -> dict[str, Any]:
    """Train on L = all labels of the rounds up to this one, and write the model to the round's folder.

    Ray Train keeps its checkpoints (safetensors and JSON) under the round's `train/fit`: a driver that comes
    back finds them there and goes on from the last one.

    Args:
        context: The round.
        config: The training section.
        epsilon: Radius of the adversaries.
        compute: Resources of the workers.
        listener: See `WorkerTask`.

    Returns:
        What the last epoch measured: epochs, steps, images_seen, seconds, images_per_second, clean_accuracy,
        adversarial_accuracy, loss {clean, adversarial, total}, stability (`Stability`), workers (of its end).

    Raises:
        RunError: The loss became infinite or not a number, or the training collapsed under
            `on_collapse: fail`. The last checkpoint before stays in the round's `train/fit`.
    """
    files = context.round.files.below("train")
    files.filesystem.create_dir(files.root, recursive=True)
    _forget_torn_snapshot(files)
    resources = {"CPU": compute.cpus_per_worker}
    if compute.gpus_per_worker:
        resources["GPU"] = compute.gpus_per_worker
    reservations = reservation_prefix(context.run_uri, context.round_index)
    release_reservations(reservations)
    settings = settings_of(config, epsilon)
    labeled = share_labeled_set(context, settings)
    task = WorkerTask(context, settings, labeled, compute.worker_threads, config.warm_start, listener)
    trainer = Trainer(
        _train_worker,
        reservations=reservations,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=config.workers
            if config.min_workers is None
            else (config.min_workers, config.workers),
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=files.root,
            storage_filesystem=files.filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    os.environ.setdefault(*LOOK_INTERVAL)
    result = trainer.fit()
    outcome = result.return_value
    if "refused" in outcome:
        raise RunError(outcome["refused"])
    checkpoint = Files(result.checkpoint.filesystem, result.checkpoint.path)
    context.round.write_model(checkpoint.read_bytes(outcome.pop("weights")), context.model, outcome)
    return outcome


def _forget_torn_snapshot(files: Files) -> None:
    """Let a training start over that was killed while Ray Train wrote its list of checkpoints.

    Ray Train writes it in place, and refuses to start for ever after on half of one.
    """
    try:
        files.read_json(SNAPSHOT)
    except FileNotFoundError:
        return
    except ValueError:
        logger.warning("%s is not whole: the training starts over", files.path(SNAPSHOT))
        files.delete("fit")


def settings_of(config: TrainingConfig, epsilon: float) -> TrainSettings:
    """The settings of the training loop, which knows no config."""
    names = set(TrainingConfig.model_fields) - {"workers", "min_workers", "warm_start"}
    return TrainSettings(epsilon=epsilon, **{name: getattr(config, name) for name in names})


def initial_model(context: StageContext, warm_start: bool) -> Classifier:
    """The model that a round's training starts with: new for each round, or the last round's."""
    fresh = not (warm_start and context.round_index > 0)
    model = context.model.build(seed=context.seed * 100_003 + context.round_index, pretrained=fresh)
    if not fresh:
        last = RunDirectory(context.run_uri).round(context.round_index - 1).weights()
        model.load_state_dict(_grown(last, model.state_dict()))
    return model


def _grown(weights: dict[str, torch.Tensor], fresh: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of fewer classes, with new rows for those that came since."""
    return {
        name: tensor if tensor.shape == fresh[name].shape else torch.cat([tensor, fresh[name][len(tensor) :]])
        for name, tensor in weights.items()
    }


def _train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """The training function that Ray Train runs in every worker."""
    task: WorkerTask = arguments["task"]
    world = ray.train.get_context()
    torch.set_num_threads(task.threads)
    checkpoint = ray.train.get_checkpoint()
    start = None
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = TrainState.load(Path(directory))
    reporter = _Reporter(task)
    try:
        result = train(
            initial_model(task.context, task.warm_start),
            take_labeled_set(task.labeled, task.context, task.settings),
            task.settings,
            seed=task.context.seed,
            round_index=task.context.round_index,
            rank=world.get_world_rank(),
            world_size=world.get_world_size(),
            device=get_device(),
            start=start,
            on_epoch=reporter.epoch_done,
            on_step=reporter.steps_done,
        )
    except UserError as error:
        # Returned, because Ray Train would start the workers again to fail in the same way.
        return {"refused": str(error)}
    return {
        **asdict(result),
        "workers": world.get_world_size(),
        "weights": WEIGHTS[result.stability.outcome],
    }


class _Reporter:
    """Keeps the checkpoints, and tells the driver how the training goes."""

    def __init__(self, task: WorkerTask) -> None:
        self._driver = task.listener
        self._round_index = task.context.round_index
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._last = 0.0

    def epoch_done(self, report: EpochReport, make_state: Any) -> None:
        """Hand the state to Ray Train; every rank reports equally often, only rank 0 keeps something."""
        if self._is_first:
            self._tell_of_look(report)
        if not report.checkpoint_due:
            return
        if not self._is_first:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as directory:
            make_state().save(Path(directory))
            ray.train.report({"epoch": report.epoch}, checkpoint=Checkpoint.from_directory(directory))

    def steps_done(self, done: int, total: int, loss: LossMeans) -> None:
        """Tell the driver how far the training is, a few times a second at most."""
        now = time.monotonic()
        if self._driver is not None and (now - self._last > SECONDS_BETWEEN_LOOKS or done == total):
            self._last = now
            self._driver.training_progress.remote(done, total, vars(loss))

    def _tell_of_look(self, report: EpochReport) -> None:
        looks = report.stability.looks
        if self._driver is None or not looks or looks[-1].epoch != report.epoch:
            return
        accuracy = {attack: getattr(looks[-1], attack) for attack in ("clean", "fgsm", "pgd")}
        words = answer_in_words(looks)
        answer = words and f"round {self._round_index}, {words}"
        self._driver.training_looked.remote(accuracy, looks[-1].collapse, answer)

"""`dm2at predict`: a run's trained model on the images of any source, distributed as the stages are."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray

from dm2at_ray import __version__
from dm2at_ray.actor import find_user_error
from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.launch import follow, joined_ray
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.monitoring.snapshot import Snapshot, StageLine
from dm2at_ray.prediction_source import Split, in_words_of_the_command, open_labeled, spec_of, write_listing
from dm2at_ray.preflight import check_resources
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.predict import Found, PredictionPlan, predict
from dm2at_ray.stages.prediction_files import PredictionFiles
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.trained import check_trust, class_names, round_with_model
from dm2at_ray.uri import absolute_uri

__all__ = ["PART_ROWS", "Request", "predict_source"]

PART_ROWS = 8192
"""Images of a part: what a call that was cut off does again, at most, for each of its workers."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: Path or URI of the images; None for a kind that has none.
        out: Path or URI of the directory for the predictions.
        round_index: The round whose model to take; None for the last.
        trusted_model: Import path of a model whose code may be run, where the run's model is the user's own.
        kind: Kind of the source; None tells it by what is there.
        image_column: Parquet: the column with the images; None for the run's own.
        label_column: Parquet: the column with the labels; None for the run's own, if there is such a column.
        split: Only those images that the run would take for its pool, or hold out; None for all.
        top: The so many best classes of each image are kept too; 0 for none but the best.
        all_probabilities: Whether the probabilities of all classes are kept too.
        part_rows: Images of a part; rounded up to a multiple of the batch size.
        settings: `compute.field=value`, in the place of the run's own.
    """

    source: str | None
    out: str
    round_index: int | None = None
    trusted_model: str | None = None
    kind: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split: Split | None = None
    top: int = 0
    all_probabilities: bool = False
    part_rows: int = PART_ROWS
    settings: tuple[str, ...] = ()


def predict_source(run_dir: str, request: Request, view: ProgressView) -> dict[str, Any]:
    """Predict every image of a source, and write what was found below `request.out`.

    Nothing is written to the run directory, and the run may be at work meanwhile. A call that was cut off
    goes on where it was: parts that are there are not done again. Ray is used as it is found, as
    `dm2at_ray.run` does.

    Args:
        run_dir: Path or URI of the run directory.
        request: What to predict.
        view: Where to show how far it is.

    Returns:
        What predict.json says in the end; `out`, and `new_parts`, the parts that this call has written.

    Raises:
        UserError: No such run or round; the source cannot be listed; the directory is not free, or another
            call is at work on it; the cluster is too small.
    """
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    round_ = round_with_model(run, request.round_index, committed=True)
    check_trust(run, round_, request.trusted_model)
    config = _with_settings(run.config(), request.settings)
    try:
        context = _context(run, round_, config, request)
    except PoolError as error:
        raise in_words_of_the_command(error) from None
    plan = _plan(context, run, config, request)
    rows = -(-request.part_rows // context.batch_size) * context.batch_size
    files = PredictionFiles(plan.out)
    lease = files.lease()
    with lease.held(view.message):
        marker = files.begin(_arguments(round_, context, plan, request, rows))
        if marker["complete"] and files.has_parts(marker["listing"]["parts"]):
            return {**marker, "out": files.uri, "new_parts": 0}
        facts, new_parts = _predict(context, plan, config, request, rows, view)
        lease.check()
        facts |= {"complete": True, "run_dir": run.uri, "version": __version__, "time": time.time()}
        marker = files.note(**facts)
        files.delete_listing()
    return {**marker, "out": files.uri, "new_parts": new_parts}


def _predict(
    context: StageContext,
    plan: PredictionPlan,
    config: Config,
    request: Request,
    rows: int,
    view: ProgressView,
) -> tuple[dict[str, Any], int]:
    """What `PredictionActor.run` returns, from where Ray is found."""
    with joined_ray(config):
        check_resources(config, ray.cluster_resources(), training=False)
        actor = ray.remote(num_cpus=0, concurrency_groups={"control": 1})(PredictionActor).remote(
            context, plan
        )
        try:
            running = actor.run.remote(request.split, rows, request.label_column is None)
            return follow(running, actor, view)
        except ray.exceptions.RayError as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            if isinstance(user_error, PoolError):
                user_error = in_words_of_the_command(user_error)
            raise user_error from None
        finally:
            ray.kill(actor)


class PredictionActor:
    """Lists the source and drives the stage where Ray runs, and can be asked meanwhile how far it is.

    Args:
        context: The round, with the source to predict.
        plan: What to predict.
    """

    def __init__(self, context: StageContext, plan: PredictionPlan) -> None:
        self._context = context
        self._plan = plan
        self._snapshot = Snapshot(round=context.round_index, rounds=None)

    def run(self, split: Split | None, rows: int, may_lack_labels: bool) -> tuple[dict[str, Any], int]:
        """List and predict what an earlier call has not.

        Args:
            split: Of the source; None for all of it.
            rows: Images of a part.
            may_lack_labels: Whether nobody has said that there are labels.

        Returns:
            What was found, and the number of parts that were not there before.
        """
        files = PredictionFiles(self._plan.out)
        started = time.time()
        listing = files.listed()
        if listing is None:
            source, note = open_labeled(self._context.source, may_lack_labels=may_lack_labels)
            self._snapshot = replace(self._snapshot, notices=(note,) if note else ())
            self._begin("list", None)
            listing = write_listing(files, source, split, rows, self._plan.class_names, self._tell)
            files.note(listing=listing)
            self._end(listing["images"])
        self._begin("predict", listing["images"])
        found = predict(self._context, self._plan, listing["parts"], listing["images"], self._tell)
        self._end(listing["images"])
        return {**_facts(found, self._plan), "seconds": round(time.time() - started, 3)}, found.new_parts

    @ray.method(concurrency_group="control")
    def snapshot(self) -> Snapshot:
        """Where it is now."""
        seconds = time.time() - self._snapshot.started if self._snapshot.stage else 0.0
        return replace(self._snapshot, seconds=seconds)

    def _begin(self, stage: str, total: int | None) -> None:
        self._snapshot = replace(self._snapshot, stage=stage, done=0, total=total, started=time.time())

    def _end(self, images: int) -> None:
        now, finished = self._snapshot, self._snapshot.finished
        line = StageLine(len(finished) + 1, now.round, now.stage, time.time() - now.started, images)
        self._snapshot = replace(now, stage="", finished=(*finished, line))

    def _tell(self, done: int, total: int | None, node: str | None = None) -> None:
        self._snapshot = replace(self._snapshot, done=done, total=total)


def _with_settings(config: Config, settings: tuple[str, ...]) -> Config:
    """The run's config with other resources where they are given; all else is the run's own."""
    for setting in settings:
        if not setting.strip().startswith("compute."):
            raise ConfigError(f"--set {setting}: not of compute; all else is as the run has it")
    return config.with_settings(list(settings))


def _context(run: RunDirectory, round_: RoundDirectory, config: Config, request: Request) -> StageContext:
    model = round_.model_spec()
    source = spec_of(request.kind, request.source, request.image_column, request.label_column, config)
    return StageContext(
        run_uri=run.uri,
        source=replace(source, image_size=model.image_size, channels=model.channels),
        model=model,
        seed=config.seed,
        round_index=round_.index,
        batch_size=config.model.batch_size,
        compute=config.compute,
    )


def _plan(context: StageContext, run: RunDirectory, config: Config, request: Request) -> PredictionPlan:
    classes = context.model.num_classes
    if not 0 <= request.top <= classes:
        raise ConfigError(f"--top {request.top}: the model has {classes} classes; give a number up to that")
    names = tuple(class_names(run, config, classes))
    return PredictionPlan(absolute_uri(request.out), names, request.top, request.all_probabilities)


def _arguments(
    round_: RoundDirectory, context: StageContext, plan: PredictionPlan, request: Request, rows: int
) -> dict[str, Any]:
    """All that the predictions depend on."""
    source = asdict(context.source)
    held_out = ("test_fraction", "seed") if request.split else ()
    fields = ("kind", "path", "image_column", "label_column", "image_size", "channels", *held_out)
    return {
        "round": round_.index,
        "model": hashlib.sha256(round_.files.read_bytes("model/model.safetensors")).hexdigest(),
        "class_names": plan.class_names,
        "source": {name: source[name] for name in fields},
        "split": request.split,
        "top": plan.top,
        "all_probabilities": plan.all_probabilities,
        "part_rows": rows,
        "batch_size": context.batch_size,
    }


def _facts(found: Found, plan: PredictionPlan) -> dict[str, Any]:
    """What was found, as JSON has it."""
    measured = found.tally.accuracies()
    return {
        "rejected": found.rejected,
        "rejected_example": found.example,
        "predicted_by_class": found.predicted.tolist(),
        "labeled": measured["images"],
        "labeled_by_class": measured["images_by_class"],
        "accuracy": measured["accuracy"],
        "accuracy_interval": measured["accuracy_interval"],
        "accuracy_by_class": measured["accuracy_by_class"]["top1"],
    }

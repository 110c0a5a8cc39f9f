"""`dm2at evaluate`: measure a round's model under attacks of one's choice, distributed as the stage is."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import ray

from dm2at_ray import __version__
from dm2at_ray.actor import find_user_error
from dm2at_ray.algorithm.autoattack import attacks_for, require_autoattack
from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError
from dm2at_ray.launch import follow, joined_ray
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.monitoring.snapshot import Snapshot, StageLine
from dm2at_ray.pool import open_source
from dm2at_ray.preflight import check_resources
from dm2at_ray.source_spec import source_spec
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.evaluate import ATTACKS, ROUND_ATTACKS, EvaluationPlan, evaluate
from dm2at_ray.stages.manifest import summary_of
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.trained import check_trust, round_with_model
from dm2at_ray.uri import absolute_uri

__all__ = ["ROUND_ATTACKS", "Request", "evaluate_run"]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        attacks: Some of clean, fgsm, pgd and autoattack.
        round_index: The round whose model to take; None for the last that has one.
        pgd_steps: Steps of PGD; None for the run's own.
        pgd_restarts: Random starts of PGD; None for the run's own.
        max_images: Take the first so many held-out images; None for all, whatever the run itself took.
        trusted_model: Import path of a model whose code may be run, where the run's model is the user's own.
    """

    attacks: tuple[str, ...] = ROUND_ATTACKS
    round_index: int | None = None
    pgd_steps: int | None = None
    pgd_restarts: int | None = None
    max_images: int | None = None
    trusted_model: str | None = None


def evaluate_run(run_dir: str, request: Request, view: ProgressView) -> dict[str, Any]:
    """Measure a round's model and keep the results in `rounds/NNNN/evaluations`, one file an attack.

    The run may be at work meanwhile. Ray is used as it is found, as `dm2at_ray.run` does.

    Args:
        run_dir: Path or URI of the run directory.
        request: What to measure.
        view: Where to show how far it is.

    Returns:
        `run_dir`, `round`, `written_to`, and `evaluations`: attack -> what its file says.

    Raises:
        UserError: No such run, round or attack; AutoAttack is not installed; the cluster is too small; the
            images are no longer where they were.
    """
    unknown = [attack for attack in request.attacks if attack not in ATTACKS]
    if unknown:
        raise ConfigError(f"attack {unknown[0]}: unknown; use one of {', '.join(ATTACKS)}")
    if "autoattack" in request.attacks:
        require_autoattack()
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    round_ = round_with_model(run, request.round_index)
    check_trust(run, round_, request.trusted_model)
    config = _with_wishes(run.config(), request)
    context, class_names = _context(run, round_, config)
    summary = summary_of(run, "test")
    assert summary is not None, "a model was trained, so the held-out images were listed before"
    plan = EvaluationPlan.of(config, summary.size)
    found: dict[str, dict[str, Any]] = {}
    with joined_ray(config):
        check_resources(config, ray.cluster_resources(), training=False)
        actor = ray.remote(num_cpus=0, concurrency_groups={"control": 1})(EvaluationActor).remote(context)
        try:
            for name, attacks in _passes(request.attacks):
                one_pass = replace(plan, attacks=attacks)
                measured, seconds = follow(actor.run.remote(name, one_pass), actor, view)
                for attack in attacks:
                    found[attack] = {
                        "round": round_.index,
                        "attack": attack,
                        "settings": _settings(attack, one_pass, context),
                        **_of_attack(measured, attack),
                        "class_names": class_names,
                        "seconds": round(seconds, 3),
                        "version": __version__,
                        "time": time.time(),
                    }
                    round_.write_evaluation(attack, found[attack])
        except ray.exceptions.RayError as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise user_error from None
        finally:
            ray.kill(actor)
    return {
        "run_dir": run.uri,
        "round": round_.index,
        "written_to": f"{run.uri.rstrip('/')}/rounds/{round_.index:04d}/evaluations",
        "evaluations": {attack: found[attack] for attack in request.attacks},
    }


class EvaluationActor:
    """Drives the stage where Ray runs, and can be asked meanwhile how far it is.

    Args:
        context: The round.
    """

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._snapshot = Snapshot(round=context.round_index, rounds=None)

    def run(self, name: str, plan: EvaluationPlan) -> tuple[dict[str, Any], float]:
        """Evaluate; returns what was measured and the seconds that it took."""
        started = time.time()
        self._snapshot = replace(self._snapshot, stage=name, done=0, total=plan.images, started=started)
        measured = evaluate(self._context, plan, self._tell)
        seconds = time.time() - started
        finished = self._snapshot.finished
        line = StageLine(len(finished) + 1, self._context.round_index, name, seconds, measured["images"])
        self._snapshot = replace(self._snapshot, stage="", finished=(*finished, line))
        return measured, seconds

    @ray.method(concurrency_group="control")
    def snapshot(self) -> Snapshot:
        """Where it is now."""
        seconds = time.time() - self._snapshot.started if self._snapshot.stage else 0.0
        return replace(self._snapshot, seconds=seconds)

    def _tell(self, done: int, total: int, node: str | None = None) -> None:
        self._snapshot = replace(self._snapshot, done=done, total=total)


def _with_wishes(config: Config, request: Request) -> Config:
    """The run's config with what is asked for in the place of its own."""
    wishes = {"pgd_steps": request.pgd_steps, "pgd_restarts": request.pgd_restarts}
    given = {field: value for field, value in wishes.items() if value is not None}
    evaluation = config.evaluation.model_copy(update={**given, "max_images": request.max_images})
    return config.model_copy(update={"evaluation": evaluation})


def _context(run: RunDirectory, round_: RoundDirectory, config: Config) -> tuple[StageContext, list[str]]:
    source, model = open_source(source_spec(config)), round_.model_spec()
    context = StageContext(
        run_uri=run.uri,
        source=replace(source.spec, image_size=model.image_size, channels=model.channels),
        model=model,
        seed=config.seed,
        round_index=round_.index,
        batch_size=config.model.batch_size,
        compute=config.compute,
    )
    names = run.class_names() or source.class_names or list(map(str, range(model.num_classes)))
    return context, names[: model.num_classes]


def _passes(attacks: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """AutoAttack goes by itself and last: what is quick is written before it starts."""
    quick = tuple(attack for attack in ROUND_ATTACKS if attack in attacks)
    passes = [("evaluate", quick)] if quick else []
    return [*passes, ("autoattack", ("autoattack",))] if "autoattack" in attacks else passes


def _settings(attack: str, plan: EvaluationPlan, context: StageContext) -> dict[str, Any]:
    """What the attack was told."""
    if attack == "clean":
        return {}
    settings: dict[str, Any] = {"epsilon": plan.epsilon}
    if attack == "pgd":
        settings["steps"], settings["step_size"] = plan.pgd_steps, plan.pgd_step_size
        settings["restarts"] = plan.pgd_restarts
    if attack == "autoattack":
        settings["attacks"] = attacks_for(context.model.num_classes)
        settings["library"] = f"pyautoattack {version('pyautoattack')}"
        settings["seed"] = context.seed
    return settings


def _of_attack(measured: dict[str, Any], attack: str) -> dict[str, Any]:
    """The part of `Tally.accuracies` that is about one attack."""
    return {name: value[attack] if isinstance(value, dict) else value for name, value in measured.items()}

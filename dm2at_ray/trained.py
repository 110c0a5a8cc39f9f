"""The model of a round, as a command finds it in a run directory that anybody may have made."""

from __future__ import annotations

from dm2at_ray.config import Config
from dm2at_ray.errors import PoolError, RunError
from dm2at_ray.pool import open_source
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RoundDirectory, RunDirectory


def round_with_model(run: RunDirectory, index: int | None, *, committed: bool = False) -> RoundDirectory:
    """The round that is asked for.

    Args:
        run: The run directory.
        index: Of the round; None for the last.
        committed: Whether the round has to be final too.

    Raises:
        RunError: It has no model, or no round has.
    """
    rounds = run.committed_rounds() if committed else run.rounds()
    trained = {r.index: r for r in rounds if r.has_model}
    if not trained:
        has = "is committed" if committed else "has a model"
        end = "finished" if committed else "trained"
        raise RunError(f"run directory {run.uri}: no round {has} yet; wait for round 0 to be {end}")
    if index is None:
        return trained[max(trained)]
    if index not in trained:
        there = ", ".join(map(str, trained))
        has = "is not committed" if committed else "has no model"
        raise RunError(f"run directory {run.uri}: round {index} {has}; choose one of {there}")
    return trained[index]


def check_trust(run: RunDirectory, round_: RoundDirectory, trusted_model: str | None) -> None:
    """Import nothing because a run directory says so: whoever made it is not known here.

    Args:
        run: The run directory.
        round_: The round whose model is wanted.
        trusted_model: Import path of a model whose code may be run.

    Raises:
        RunError: The model is code that is not part of this package, and not that one.
    """
    name = round_.model_spec().name
    if ":" in name and name != trusted_model:
        raise RunError(
            f"run directory {run.uri}: its model is {name}, code that is not part of this package; give "
            f"--model {name} if you trust that code"
        )


def class_names(run: RunDirectory, config: Config, num_classes: int) -> list[str]:
    """Names of the classes that a model of a run tells apart, in the order of its logits.

    Those that the run keeps; else those of its pool, where that can be reached; else their numbers. A class
    that was added after the model was trained is not among them.

    Args:
        run: The run directory.
        config: Of the run.
        num_classes: Logits of the model.
    """
    names = (_kept(run) or _of_pool(config))[:num_classes]
    return [*names, *map(str, range(len(names), num_classes))]


def _kept(run: RunDirectory) -> list[str]:
    if not run.files.exists("classes.json"):
        return []
    return [str(name) for name in run.files.read_json("classes.json")["names"]]


def _of_pool(config: Config) -> list[str]:
    try:
        return list(open_source(source_spec(config)).class_names or ())
    except PoolError:
        return []

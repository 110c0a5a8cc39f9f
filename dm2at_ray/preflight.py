"""What can be known to be wrong before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dm2at_ray.algorithm.acquisition import STRATEGIES
from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, ModelError
from dm2at_ray.models import ModelSpec
from dm2at_ray.pool import Source, SourceSpec, open_source
from dm2at_ray.source_spec import source_spec
from dm2at_ray.stages.manifest import summary_of
from dm2at_ray.stages.train import settings_of as training_settings
from dm2at_ray.store import RunDirectory
from dm2at_ray.uri import absolute_uri


@dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes:
        source: Where the images are, with `image_size` and `channels` resolved.
        model: The classifier's spec.
        class_names: Names of the classes.
        sizes: Images in the splits `pool` and `test`.
    """

    source: SourceSpec
    model: ModelSpec
    class_names: list[str]
    sizes: dict[str, int]


def check(config: Config, run: RunDirectory) -> Plan:
    """List the source, build the model once, and hold the config against both.

    Args:
        config: Of the run.
        run: The run directory; splits that it has listed already are not listed again.

    Returns:
        What the driver needs to know.

    Raises:
        ConfigError: A field is at odds with the pool; the line names it, its value and the mend.
        PoolError: The source cannot be listed.
        ModelError: The model cannot be built.
    """
    source = open_source(source_spec(config))
    sizes = {split: _count(run, source, split) for split in ("pool", "test")}
    names = source.class_names
    if names is None or len(names) < 2:
        raise _too_few_classes(config)
    size, channels = _image_shape(config, source)
    check_alone(config)
    _check_against_pool(config, sizes["pool"])
    model = _checked_model(config, len(names), channels, size)
    return Plan(replace(source.spec, image_size=size, channels=channels), model, names, sizes)


def _too_few_classes(config: Config) -> ConfigError:
    if config.query.oracle == "files":
        return ConfigError(
            f"data.class_names = {config.data.class_names}: neither the pool nor the test images name two "
            "classes or more; list the classes that people choose among, e.g. [cat, dog]"
        )
    return ConfigError(
        f"data.label_column = {config.data.label_column!r}: the pool has no labels of two classes or "
        "more for the simulated oracle to reveal; give a pool with labels, or let people label by "
        "query.oracle=files"
    )


def _checked_model(config: Config, num_classes: int, channels: int, image_size: int) -> ModelSpec:
    try:
        spec = ModelSpec(
            name=config.model.name,
            num_classes=num_classes,
            channels=channels,
            image_size=image_size,
            mean=config.model.mean,
            std=config.model.std,
            weights=config.model.weights and absolute_uri(config.model.weights),
        )
        spec.build(seed=0)
    except ModelError as error:
        about = str(error).split()[0]
        field = about if about in ("weights", "mean", "std") else "name"
        raise ModelError(f"model.{field} = {getattr(config.model, field)}: {error}") from None
    return spec


def check_resources(config: Config, available: dict[str, float], *, training: bool = True) -> None:
    """Hold the config against what the Ray cluster has.

    Args:
        config: Of the run.
        available: Resources of the cluster.
        training: Whether anything is to be trained.

    Raises:
        ConfigError: More GPUs or CPUs are asked for than there are.
    """
    compute = config.compute
    elastic = config.training.min_workers is not None
    name = "min_workers" if elastic else "workers"
    workers = getattr(config.training, name)
    wishes = {
        "GPU": {"gpus_per_actor": compute.gpus_per_actor, "gpus_per_worker": compute.gpus_per_worker},
        "CPU": {"cpus_per_actor": compute.cpus_per_actor, "cpus_per_worker": compute.cpus_per_worker},
    }
    for kind, fields in wishes.items():
        there = available.get(kind, 0)
        for field, each in fields.items():
            if field.endswith("worker") and not training:
                continue
            # One actor is enough to go on with; a training needs all of its workers, or the least, at once.
            needed = each * (workers if field.endswith("worker") else 1)
            if needed > there:
                of = f" for training.{name} = {workers}" if field.endswith("worker") else ""
                raise ConfigError(
                    f"compute.{field} = {each:g}{of}: {needed:g} {kind}s are more than the {there:g} of the "
                    f"cluster; lower it{' or the workers' if of else ''}, or join a larger cluster"
                )


def check_alone(config: Config) -> None:
    """Hold the config against itself, for whoever cannot reach the pool.

    Args:
        config: Of the run.

    Raises:
        ConfigError: A field is at odds with another, or names nothing that there is.
    """
    if config.query.strategy not in STRATEGIES:
        raise ConfigError(
            f"query.strategy = {config.query.strategy}: unknown; use one of {', '.join(STRATEGIES)}"
        )
    try:
        training_settings(config.training, config.attack.epsilon)
    except ConfigError as error:
        raise ConfigError(f"training.{error}") from None
    least, most = config.training.min_workers, config.training.workers
    if least is not None and least > most:
        raise ConfigError(
            f"training.min_workers = {least}: more than training.workers = {most}; lower it, or leave it out"
        )


def _count(run: RunDirectory, source: Source, split: str) -> int:
    summary = summary_of(run, split)  # type: ignore[arg-type]
    if summary is not None:
        return summary.size
    return sum(table.num_rows for table in source.tables(split))  # type: ignore[arg-type]


def _image_shape(config: Config, source: Source) -> tuple[int, int]:
    native = source.native_size()
    for place, field in enumerate(("image_size", "channels")):
        if getattr(config.data, field) is None and native is None:
            example = (32, 3)[place]
            raise ConfigError(
                f"data.{field} = None: images of the source {config.data.source} may have any; "
                f"set it, e.g. {example}"
            )
    size, channels = native or (0, 0)
    return config.data.image_size or size, config.data.channels or channels


def _check_against_pool(config: Config, pool: int) -> None:
    def refuse(field: str, value: object, mend: str) -> None:
        raise ConfigError(f"{field} = {value}: {mend}")

    query, k = config.query, config.neighbors.k
    if query.initial > pool:
        refuse("query.initial", query.initial, f"more than the {pool:,} images of the pool; lower it")
    if query.size > pool:
        refuse("query.size", query.size, f"more than the {pool:,} images of the pool; lower it")
    if k >= pool:
        refuse("neighbors.k", k, f"not less than the {pool:,} images of the pool; lower it")

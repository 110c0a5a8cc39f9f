"""What `dm2at predict` is pointed at: the kind of source, its images in order, its labels as the model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.pool import SOURCES, Source, SourceSpec, open_source
from dm2at_ray.pool.named import NO_PATH
from dm2at_ray.pool.sources.base import rebatched
from dm2at_ray.pool.sources.guess import guess_kind
from dm2at_ray.source_spec import source_spec
from dm2at_ray.stages.prediction_files import PredictionFiles

Split = Literal["pool", "test"]
_OPTIONS = {
    "path": "SOURCE",
    "source": "--kind",
    "image_column": "--image-column",
    "label_column": "--label-column",
}


def spec_of(
    kind: str | None, path: str | None, image_column: str | None, label_column: str | None, config: Config
) -> SourceSpec:
    """The source that is asked for, read as the run reads its own where nothing else is said.

    Args:
        kind: Of the source; None tells it by what is there.
        path: Path or URI; None for a kind that has none.
        image_column: Parquet: the column with the images; None for the run's own.
        label_column: Parquet: the column with the labels; None for the run's own.
        config: Of the run.

    Raises:
        ConfigError: There is no such kind of source.
        PoolError: What is there is no source, or nothing is there.
    """
    if kind is None:
        assert path is not None
        kind = guess_kind(path, image_column or config.data.image_column, "SOURCE")
    if kind not in SOURCES:
        raise ConfigError(f"--kind {kind}: no such source; choose one of {', '.join(SOURCES)}")
    spec = replace(
        source_spec(config),
        kind=kind,
        path=None if kind == NO_PATH else path,
        test_path=None,
        image_column=image_column or config.data.image_column,
        label_column=label_column or config.data.label_column,
        class_names=None,
    )
    open_source(spec)
    return spec


def in_words_of_the_command(error: PoolError) -> PoolError:
    """A source's complaint under the names that the command has for the fields of a config."""
    words = str(error)
    for field, option in _OPTIONS.items():
        words = words.replace(f"data.{field}", option)
    return PoolError(words)


def open_labeled(spec: SourceSpec, *, may_lack_labels: bool) -> tuple[Source, str | None]:
    """Open a source; one whose labels cannot be read, without them.

    Args:
        spec: Of the source.
        may_lack_labels: Whether nobody has said that there are labels.

    Returns:
        The source, and why its labels are not read; None where they are.

    Raises:
        PoolError: The source cannot be read, or not the labels that somebody said are there.
    """
    source = open_source(spec)
    try:
        _ = source.class_names
    except PoolError as error:
        if not may_lack_labels or spec.label_column is None:
            raise
        unlabeled = open_source(replace(spec, label_column=None))
        # What is wrong with more than the labels is wrong here too.
        _ = unlabeled.class_names
        return unlabeled, f"labels are not read ({error})"
    return source, None


def write_listing(
    files: PredictionFiles,
    source: Source,
    split: Split | None,
    rows: int,
    names: tuple[str, ...],
    progress: Callable[[int, int | None], None],
) -> dict[str, Any]:
    """List a source into parts of one size; a table of the source and a part are in memory at once.

    Args:
        files: Where to write it.
        source: What to list.
        split: Of the source; None for all of it.
        rows: Images of a part.
        names: Classes of the model; labels become places among them.
        progress: Told of every part.

    Returns:
        `images`, `parts`, and `foreign_labels`: images whose label is none of the classes.

    Raises:
        PoolError: There are no images, or the source cannot be listed.
    """
    files.delete_listing()
    numbers = class_numbers(source.class_names or [], names)
    images = parts = foreign = 0
    tables = source.entries("pool") if split is None else source.tables(split)
    for table in rebatched(tables, rows):
        labels = pc.take(numbers, table["label"])
        foreign += labels.null_count - table["label"].null_count
        place = table.schema.get_field_index("label")
        files.write_listing(parts, table.set_column(place, "label", labels))
        images, parts = images + table.num_rows, parts + 1
        progress(images, None)
    if not images:
        raise PoolError(f"SOURCE {source.spec.path!r}: no images there; give a place that holds some")
    return {"images": images, "parts": parts, "foreign_labels": foreign}


def class_numbers(source_names: list[str], names: tuple[str, ...]) -> pa.Array:
    """The place of each of a source's classes among the model's, null where it is none of them.

    Integer labels, which have no names of their own, are places already.

    Examples:
        >>> class_numbers(["ape", "cat"], ("cat", "dog")).to_pylist()
        [None, 0]
        >>> class_numbers(["0", "1", "2"], ("cat", "dog")).to_pylist()
        [0, 1, None]
    """
    are_numbers = source_names == [str(number) for number in range(len(source_names))]
    if are_numbers and not set(source_names) & set(names):
        places = [number if number < len(names) else None for number in range(len(source_names))]
    else:
        by_name = {name: place for place, name in reversed(list(enumerate(names)))}
        places = [by_name.get(name) for name in source_names]
    return pa.array(places, pa.int64())

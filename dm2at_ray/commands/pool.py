"""`dm2at pool`: pack, extend, check and describe pools."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from dm2at_ray.commands.interrupts import signals_raise
from dm2at_ray.commands.options import JsonOption, import_only

if TYPE_CHECKING:
    from dm2at_ray.pool.catalog import Catalog
    from dm2at_ray.pool_build import Request

SHOWN = 20
"""Broken images that are named one by one; --json has them all."""

pool = typer.Typer(help="Pack images into a pool, add to it, check it.", no_args_is_help=True)

PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE... OUT",
        help="What to pack: paths or URIs whose kind is told by what is there, or KIND:PATH. Then the "
        "place of the pool.",
        show_default=False,
    ),
]
ImageColumnOption = Annotated[str, typer.Option(help="Parquet: the column of images.")]
LabelColumnOption = Annotated[str, typer.Option(help='Parquet: the column of labels; "" for none.')]
UriColumnOption = Annotated[str, typer.Option(help="Lists: the column of image paths or URIs.")]
DatasetOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
    typer.Option(help="Of torchvision:PATH: the name of its class, such as CIFAR10.", show_default=False),
]
ClassNamesOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
    typer.Option(help="Names of the sources' classes in the order of their labels, with commas between."),
]
SplitOption = Annotated[str, typer.Option(help="pool, or test for the sources' own test images.")]


@pool.command()
def build(
    paths: PathsArgument,
    image_column: ImageColumnOption = "image",
    label_column: LabelColumnOption = "label",
    uri_column: UriColumnOption = "uri",
    dataset: DatasetOption = None,
    class_names: ClassNamesOption = None,
    split: SplitOption = "pool",
    image_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=4, help="What runs bring the images to where they do not say; originals are kept."),
    ] = None,
    channels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=3, help="Likewise: 1 for gray, 3 for colour."),
    ] = None,
) -> None:
    """Pack sources into a new pool; the same command goes on where it was cut off.

    Every image is decoded once: those that cannot be are set aside with the reason and keep their id. Exact
    duplicates are found. Ids are places in the listing and never change.
    """
    from dm2at_ray.pool_build import build_pool

    columns = image_column, label_column, uri_column
    _pack(build_pool, _request(paths, columns, dataset, class_names, split, image_size, channels))


@pool.command()
def add(
    out: Annotated[str, typer.Argument(help="The pool.", show_default=False)],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="What to append.", show_default=False)
    ],
    image_column: ImageColumnOption = "image",
    label_column: LabelColumnOption = "label",
    uri_column: UriColumnOption = "uri",
    dataset: DatasetOption = None,
    class_names: ClassNamesOption = None,
    split: SplitOption = "pool",
) -> None:
    """Append sources to a pool: new ids follow the old ones, and what is there already is a duplicate."""
    from dm2at_ray.pool_build import add_to_pool

    columns = image_column, label_column, uri_column
    _pack(add_to_pool, _request([*sources, out], columns, dataset, class_names, split))


@pool.command()
def check(
    path: Annotated[
        str, typer.Argument(metavar="OUT|SOURCE", help="A pool, or any source.", show_default=False)
    ],
    image_column: ImageColumnOption = "image",
    uri_column: UriColumnOption = "uri",
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every image and report what is broken; exit code 1 if anything is.

    A pool's images are compared with the hashes of its manifest; those of any other source are decoded.
    """
    from dm2at_ray.monitoring.progress import make_progress
    from dm2at_ray.pool.named import source_named
    from dm2at_ray.pool_check import check_pool

    fields = {"image_column": image_column, "uri_column": uri_column, "dataset": dataset}
    spec = source_named(path, label_column=None, **fields)
    import_only(model=None)
    view = make_progress(sys.stderr if as_json else sys.stdout)
    with signals_raise("nothing was changed"), view:
        findings = check_pool(spec, view)
    if as_json:
        print(json.dumps(findings.to_json(), indent=1))
    else:
        for broken in findings.broken[:SHOWN]:
            sample = "manifest" if broken["sample_id"] is None else f"sample {broken['sample_id']}"
            row = "" if broken["row"] is None else f", row {broken['row']}"
            print(f"{sample}: {broken['uri']}{row}: {broken['reason']}")
        if len(findings.broken) > SHOWN:
            print(f"... and {len(findings.broken) - SHOWN:,} more")
        aside = (
            f" ({findings.set_aside:,} were set aside when they were packed)" if findings.set_aside else ""
        )
        print(f"{findings.images:,} images{aside}, {len(findings.broken):,} broken")
    raise typer.Exit(1 if findings.broken else 0)


@pool.command()
def info(
    out: Annotated[str, typer.Argument(help="The pool.", show_default=False)],
    rejected: Annotated[
        bool, typer.Option("--rejected", help="List the images that were set aside.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what is in a pool: images, classes, bytes, additions."""
    from dm2at_ray.pool.directory import PoolDirectory

    directory = PoolDirectory.at(out, "OUT")
    catalog = directory.catalog()
    found = _facts(catalog)
    if rejected:
        found["rejected_images"] = [
            {name: row[name] for name in ("sample_id", "origin", "origin_row", "reason")}
            for table in directory.parts(catalog)
            for row in table.filter(table["reason"].is_valid()).to_pylist()
        ]
    if as_json:
        print(json.dumps({"pool": directory.place.uri, **found}, indent=1))
        return
    print("\n".join(_lines(catalog, directory.place.uri)))
    for image in found.get("rejected_images", ()):
        print(f"sample {image['sample_id']}: {image['origin']}, row {image['origin_row']}: {image['reason']}")


def _pack(packing: Any, request: Request) -> None:
    from dm2at_ray.monitoring.progress import make_progress
    from dm2at_ray.pool.location import Location

    import_only(model=None)
    view = make_progress(sys.stdout)
    with signals_raise("what is packed stays: the same command goes on from there"), view:
        catalog = packing(request, view)
    print("\n".join(_lines(catalog, Location.of(request.out).uri)))


def _request(
    paths: list[str],
    columns: tuple[str, str, str],
    dataset: str | None,
    class_names: str | None,
    split: str,
    image_size: int | None = None,
    channels: int | None = None,
) -> Request:
    from dm2at_ray.errors import PoolError
    from dm2at_ray.pool.named import source_named
    from dm2at_ray.pool_build import Request
    from dm2at_ray.uri import absolute_uri

    *texts, out = paths
    if not texts:
        raise PoolError(
            f"OUT {out!r}: only one place is given; give what to pack first, then the pool's place"
        )
    if split not in ("pool", "test"):
        raise PoolError(f"--split {split}: unknown; use pool or test")
    if channels == 2:
        raise PoolError("--channels 2: neither gray nor colour; use 1 or 3")
    image_column, label_column, uri_column = columns
    fields = {
        "image_column": image_column,
        "label_column": label_column or None,
        "uri_column": uri_column,
        "dataset": dataset,
        "class_names": None if class_names is None else tuple(class_names.split(",")),
    }
    specs = tuple(source_named(text, **fields) for text in texts)
    return Request(absolute_uri(out), specs, "test" if split == "test" else "pool", image_size, channels)


def _facts(catalog: Catalog) -> dict[str, Any]:
    parts, shards = catalog.parts, catalog.shards
    return {
        "images": catalog.size,
        "rejected": sum(part.rejected for part in parts),
        "duplicates": sum(part.duplicates for part in parts),
        "labeled": sum(part.labeled for part in parts),
        "class_names": None if catalog.class_names is None else list(catalog.class_names),
        "image_size": catalog.image_size,
        "channels": catalog.channels,
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "additions": list(catalog.additions),
    }


def _lines(catalog: Catalog, uri: str) -> list[str]:
    facts = _facts(catalog)
    names = facts["class_names"]
    classes = "no classes" if names is None else f"{len(names):,} classes ({_shortened(names)})"
    return [
        f"pool: {uri}",
        f"images: {facts['images']:,}, of them {facts['rejected']:,} set aside, {facts['duplicates']:,} "
        f"duplicates, {facts['labeled']:,} with a label",
        f"labels: {classes}",
        f"shards: {facts['shards']:,} with {facts['bytes'] / 2**20:,.1f} MiB of images",
        *(
            f"ids from {entry['first_id']:,}: {entry['size']:,} images of "
            + ", ".join(f"{spec['kind']} {spec['path'] or ''}".strip() for spec in entry["sources"])
            for entry in facts["additions"]
        ),
    ]


def _shortened(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")

"""`dm2at export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from dm2at_ray.commands.interrupts import signals_raise
from dm2at_ray.commands.options import JsonOption, ModelOption, RoundOption, RunDirArgument, import_only


def export(
    run_dir: RunDirArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, on this machine.", show_default=False)
    ],
    format_: Annotated[
        Literal["torchscript", "onnx"],
        typer.Option("--format", help="onnx needs the extra `export`.", show_default=False),
    ],
    round_index: RoundOption = None,
    model: ModelOption = None,
    dynamic_batch: Annotated[
        bool, typer.Option(help="Take any number of images at once, or --batch-size of them only.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="With --no-dynamic-batch: images at once.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Write a round's model to one file that needs nothing of this package, its normalization inside.

    The file takes `images`, float32 (N, C, H, W) in [0, 1] (RGB, or gray for one channel), and gives `logits`
    (N, classes). Class names and input shape are in its metadata. It is compared with the model, on random
    images and on images of the pool, before it is put in its place.
    """
    from dm2at_ray.run_export import Request, export_model
    from dm2at_ray.uri import absolute_uri

    run_dir, output = absolute_uri(run_dir), output.expanduser().absolute()
    import_only(model)
    request = Request(output, format_, round_index, model, None if dynamic_batch else batch_size)
    with signals_raise("no file was written"):
        done = export_model(run_dir, request)
    if as_json:
        print(json.dumps(done, indent=1))
        return
    check = done["check"]
    for name, difference in check["difference"].items():
        print(
            f"{check['images'][name]} {name} images: logits differ by at most {difference:.2g} "
            f"(largest logit {check['largest'][name]:.3g})"
        )
    if done["pool_unread"]:
        print(f"not compared on images of the pool: {done['pool_unread']}")
    batches = ", ".join(map(str, check["batches"]))
    print(f"checked by {check['runner']}, batches of {batches}")
    print(f"written to {done['output']} ({done['bytes']:,} bytes)")

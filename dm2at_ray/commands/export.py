"""`dm2at export`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from dm2at_ray.commands.interrupts import signals_raise


def export(
    run_dir: Annotated[
        str, typer.Argument(help="The run directory: a local path or a URI.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write, on this machine.", show_default=False)
    ],
    format_: Annotated[
        Literal["torchscript", "onnx"],
        typer.Option("--format", help="onnx needs the extra `export`.", show_default=False),
    ],
    round_index: Annotated[
        Optional[int],  # noqa: UP045 - typer reads the annotation at run time, also on Python 3.10
        typer.Option("--round", min=0, help="The round whose model to take; the last one if left out."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Import path of the run's model where it is your own, package.module:function: no code is "
            "imported because a run directory names it.",
            show_default=False,
        ),
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option(help="Take any number of images at once, or --batch-size of them only.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="With --no-dynamic-batch: images at once.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a round's model to one file that needs nothing of this package, its normalization inside.

    The file takes `images`, float32 (N, C, H, W) in [0, 1] (RGB, or gray for one channel), and gives `logits`
    (N, classes). Class names and input shape are in its metadata. It is compared with the model, on random
    images and on images of the pool, before it is put in its place.
    """
    from dm2at_ray.run_export import Request, export_model
    from dm2at_ray.uri import absolute_uri

    run_dir, output = absolute_uri(run_dir), output.expanduser().absolute()
    if model is None:
        # What is imported from here on may lie where the user stands: in a stranger's run directory.
        os.chdir("/")
    else:
        sys.path.insert(0, str(Path.cwd()))
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

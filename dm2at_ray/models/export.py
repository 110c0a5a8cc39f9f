"""A classifier as a file that needs nothing of this package: TorchScript or ONNX, checked before kept."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import ModelError
from dm2at_ray.models.classifier import Classifier

Format = Literal["torchscript", "onnx"]
INPUT, OUTPUT = "images", "logits"
METADATA_FILE = "metadata.json"
"""Name of the extra file of a TorchScript archive that holds the metadata."""

TOLERANCE = 1e-4
"""Difference of a logit that is taken for rounding, as a share of the largest logit."""
SMALLEST = 1e-6
"""What is added to it: no difference this small matters."""

BATCHES = (1, 7, 256)
REFERENCE_BATCHES = (1, 7)
"""ONNX's reference evaluator is plain NumPy, and would take minutes for more."""
FIXED_BATCHES = 8
"""Random batches for a file that takes batches of one size only."""

Answer = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to logits (N, classes)."""


@dataclass(frozen=True)
class Check:
    """How an exported file was compared with the model.

    Attributes:
        runner: What ran the file.
        batches: Sizes of the batches that it was given.
        images: Images compared, by where they are from.
        difference: Largest difference of a logit, by where the images are from.
        largest: Largest logit there, by size.
    """

    runner: str
    batches: tuple[int, ...]
    images: dict[str, int]
    difference: dict[str, float]
    largest: dict[str, float]


def export_classifier(
    model: Classifier,
    path: Path,
    format_: Format,
    shape: tuple[int, int, int],
    metadata: dict[str, str],
    images: dict[str, Tensor],
    batch: int | None = None,
) -> Check:
    """Write a classifier to a file, run the file, and put it in its place where it answers as the model does.

    Args:
        model: In eval mode, on the CPU; its normalization goes along.
        path: The file; one that is there is replaced in one step, and only after the check.
        format_: torchscript or onnx.
        shape: (C, H, W) of an image.
        metadata: Kept in the file: ONNX's metadata, or `metadata.json` among TorchScript's extra files.
        images: What to compare on besides random images: a name -> (N, C, H, W) in [0, 1].
        batch: Images that the file takes at once; None for any number.

    Returns:
        How the two compare.

    Raises:
        ModelError: What an export needs is not installed; the model cannot be exported so; or the file
            answers otherwise than the model.
    """
    if format_ == "onnx":
        require_onnx()
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with torch.inference_mode(False), torch.no_grad():
            _WRITERS[format_](model, part, torch.rand(2 if batch is None else batch, *shape), metadata, batch)
            _to_disk(part)
            check = _compare(model, part, format_, shape, images, batch)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return check


def require_onnx() -> None:
    """Insist that the packages are there that an export to ONNX needs.

    Raises:
        ModelError: One is not.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f"--format onnx: the package {package} is not installed; "
                "install the extra: pip install 'dm2at-ray[export]'"
            )


def _write_torchscript(
    model: Classifier, path: Path, example: Tensor, metadata: dict[str, str], batch: int | None
) -> None:
    extra = {METADATA_FILE: json.dumps(metadata, indent=1)}
    try:
        # torch warns that this is deprecated, and has no other way to TorchScript.
        with _quiet():
            torch.jit.save(torch.jit.trace(model, example, check_trace=False), str(path), _extra_files=extra)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"the model cannot be exported to TorchScript: {_first_line(error)}; try --format onnx"
        ) from error


def _write_onnx(
    model: Classifier, path: Path, example: Tensor, metadata: dict[str, str], batch: int | None
) -> None:
    free = {0: torch.export.Dim("batch")} if batch is None else None
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=None if free is None else (free,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = _first_line(error.__cause__ or error)
        mend = (
            "; try --no-dynamic-batch, or --format torchscript"
            if batch is None
            else "; try --format torchscript"
        )
        raise ModelError(f"the model cannot be exported to ONNX: {reason}{mend}") from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=False)


_WRITERS: dict[Format, Callable[[Classifier, Path, Tensor, dict[str, str], int | None], None]] = {
    "torchscript": _write_torchscript,
    "onnx": _write_onnx,
}


def _compare(
    model: Classifier,
    path: Path,
    format_: Format,
    shape: tuple[int, int, int],
    images: dict[str, Tensor],
    batch: int | None,
) -> Check:
    runner, answer = _RUNNERS[format_](path)
    sizes: tuple[int, ...] = REFERENCE_BATCHES if runner.startswith("onnx reference") else BATCHES
    sizes = sizes if batch is None else (batch,)
    count = sum(sizes) if batch is None else FIXED_BATCHES * batch
    random = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    counts, differences, largest = {}, {}, {}
    for name, source in {"random": random, **images}.items():
        batches = list(_batches(source, sizes, fixed=batch is not None))
        expected = _all_answers("the model", model, batches)
        given = _all_answers("the exported file", answer, batches)
        counts[name] = sum(len(x) for x in batches)
        differences[name] = max(
            (_difference(a, b) for a, b in zip(given, expected, strict=True)), default=0.0
        )
        largest[name] = max((float(logits.abs().max()) for logits in expected), default=0.0)
        # Not `>`: a difference that is no number is none that may pass.
        if not differences[name] <= TOLERANCE * largest[name] + SMALLEST:
            raise ModelError(
                f"the exported file answers otherwise than the model: a logit differs by "
                f"{differences[name]:.3g} on {name} images, the largest being {largest[name]:.3g}; "
                "try another --format"
            )
    return Check(runner, sizes, counts, differences, largest)


def _all_answers(what: str, answer: Answer, batches: list[Tensor]) -> list[Tensor]:
    try:
        return [answer(x) for x in batches]
    except Exception as error:  # each runtime has exceptions of its own
        sizes = ", ".join(str(size) for size in sorted({len(x) for x in batches}))
        raise ModelError(
            f"{what} does not run on batches of {sizes} images: {_first_line(error)}; "
            "try --no-dynamic-batch, or another --format"
        ) from error


def _batches(images: Tensor, sizes: Sequence[int], *, fixed: bool) -> Iterator[Tensor]:
    """Images in batches of each of the sizes in turn; of a fixed size no other."""
    begin = 0
    while begin < len(images):
        for size in sizes:
            some = images[begin : begin + size]
            begin += size
            if len(some) == size or (len(some) and not fixed):
                yield some


def _difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape or given.dtype != expected.dtype:
        return float("nan")
    return float((given.double() - expected.double()).abs().max())


def _torchscript_runner(path: Path) -> tuple[str, Answer]:
    with _quiet():
        return f"torch.jit.load of torch {torch.__version__}", torch.jit.load(str(path), map_location="cpu")


def _onnx_runner(path: Path) -> tuple[str, Answer]:
    run: Any
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run
        name = f"onnxruntime {onnxruntime.__version__}"
    else:
        import onnx
        from onnx.reference import ReferenceEvaluator

        run = ReferenceEvaluator(str(path)).run
        name = f"onnx reference evaluator {onnx.__version__} (onnxruntime is not installed)"

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(run([OUTPUT], {INPUT: images.numpy()})[0]))

    return name, answer


_RUNNERS: dict[Format, Callable[[Path], tuple[str, Answer]]] = {
    "torchscript": _torchscript_runner,
    "onnx": _onnx_runner,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' own remarks from the terminal; what they cannot do is raised."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]

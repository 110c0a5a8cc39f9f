"""`dm2at export`: a round's model as a file that needs nothing of this package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dm2at_ray import __version__
from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.models import ModelSpec
from dm2at_ray.models.export import BATCHES, Format, export_classifier, require_onnx
from dm2at_ray.pool import Pool, open_source
from dm2at_ray.source_spec import source_spec
from dm2at_ray.stages.images import to_device
from dm2at_ray.store import RoundDirectory, RunDirectory
from dm2at_ray.trained import check_trust, class_names, round_with_model
from dm2at_ray.uri import absolute_uri

__all__ = ["Request", "export_model"]

SAMPLES = sum(BATCHES)
"""Images of the pool that the file and the model are compared on."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        output: The file to write.
        format: torchscript or onnx.
        round_index: The round whose model to take; None for the last.
        trusted_model: Import path of a model whose code may be run, where the run's model is the user's own.
        batch_size: Images that the file takes at once; None for any number.
    """

    output: Path
    format: Format
    round_index: int | None = None
    trusted_model: str | None = None
    batch_size: int | None = None


def export_model(run_dir: str, request: Request) -> dict[str, Any]:
    """Export a round's model with its normalization, and check that the file answers as the model does.

    The file takes `images`, float32 (N, C, H, W) in [0, 1], RGB or gray, and gives `logits`, float32
    (N, classes). It is compared with the model on random images and on images of the pool, in batches of 1, 7
    and 256, before it is put in its place.

    Args:
        run_dir: Path or URI of the run directory.
        request: What to export, and how.

    Returns:
        `output`, `bytes`, `metadata` as the file has it, `check` (see `dm2at_ray.models.export.Check`), and
        `pool_unread`: why no image of the pool was compared; None where that was done.

    Raises:
        UserError: No such run or round, a package is missing, or the model cannot be exported.
    """
    if request.format == "onnx":
        require_onnx()
    folder = request.output.parent
    if request.output.is_dir():
        raise ConfigError(f"--output {request.output}: a folder; give a file in it")
    if not folder.is_dir():
        raise ConfigError(f"--output {request.output}: no folder {folder}; make it, or give another file")
    run = RunDirectory(absolute_uri(run_dir))
    run.require()
    round_ = round_with_model(run, request.round_index, committed=True)
    check_trust(run, round_, request.trusted_model)
    config, spec = run.config(), round_.model_spec()
    model = spec.build(pretrained=False)
    model.load_state_dict(round_.weights())
    images, unread = _pool_images(run, config, spec)
    metadata = _metadata(config, round_, spec, class_names(run, config, spec.num_classes), request.batch_size)
    check = export_classifier(
        model.eval(),
        request.output,
        request.format,
        (spec.channels, spec.image_size, spec.image_size),
        metadata,
        {"pool": images} if len(images) else {},
        request.batch_size,
    )
    return {
        "output": str(request.output),
        "format": request.format,
        "bytes": request.output.stat().st_size,
        "round": round_.index,
        "metadata": metadata,
        "check": asdict(check),
        "pool_unread": unread,
    }


def _metadata(
    config: Config, round_: RoundDirectory, spec: ModelSpec, names: list[str], batch_size: int | None
) -> dict[str, str]:
    """What a user of the file has to know, as text; lists are JSON."""
    size, colors = spec.image_size, {1: "gray", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels")
    shape = [batch_size or "N", spec.channels, size, size]
    logits = _shape([shape[0], spec.num_classes])
    return {
        "producer": f"dm2at-ray {__version__}",
        "run": config.name,
        "round": str(round_.index),
        "model": spec.name,
        "class_names": json.dumps(names),
        "input": f"images: float32 {_shape(shape)}, {colors}, in [0, 1] (uint8 / 255), not normalized",
        "input_shape": json.dumps(shape),
        "preprocessing": f"shorter side resized to {size} pixels (bilinear, antialiased), centre cropped",
        "output": f"logits: float32 {logits}; their softmax gives probabilities",
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
    }


def _shape(sizes: list[Any]) -> str:
    return f"({', '.join(map(str, sizes))})"


def _pool_images(run: RunDirectory, config: Config, spec: ModelSpec) -> tuple[Tensor, str | None]:
    """Images (n, C, H, W) from all over the pool; none of them and the reason where it cannot be read."""
    files = run.manifest_files("pool")
    try:
        source = open_source(source_spec(config))
        pool = Pool.open(files.filesystem, files.root, source, spec.image_size, spec.channels)
        readable = np.setdiff1d(np.arange(pool.size), pool.rejected_ids(), assume_unique=True)
        every = -(-len(readable) // SAMPLES) or 1
        return to_device(pool.read(readable[::every]), torch.device("cpu")), None
    except PoolError as error:
        return torch.empty(0), str(error)

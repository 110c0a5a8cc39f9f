"""What every worker of a stage needs, as plain values, and what it opens from them once per process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch

from dm2at_ray.config_sections import ComputeConfig
from dm2at_ray.models import Classifier, ModelSpec
from dm2at_ray.pool import Pool, SourceSpec, open_source
from dm2at_ray.pool.sources.base import Split
from dm2at_ray.store import RoundDirectory, RunDirectory


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, done: int, total: int, node: str | None = None) -> None:
        """Take the images done so far, the images in all, and the node that did what is newly done."""


@dataclass(frozen=True)
class StageContext:
    """A round's surroundings; travels to every worker.

    Attributes:
        run_uri: The run directory.
        source: Where the images are, with `image_size` and `channels` resolved.
        model: The classifier's spec.
        seed: Of the run.
        round_index: The round in progress.
        batch_size: Images per forward pass, a power of two.
        compute: Resources of the actors.
        pool_size: Sample ids in the pool, which may have grown since a process has opened it.
    """

    run_uri: str
    source: SourceSpec
    model: ModelSpec
    seed: int
    round_index: int
    batch_size: int
    compute: ComputeConfig
    pool_size: int = 0

    @property
    def round(self) -> RoundDirectory:
        """The round's folder."""
        return RunDirectory(self.run_uri).round(self.round_index)

    @property
    def device(self) -> torch.device:
        """Where an actor of this stage computes."""
        return torch.device("cuda" if self.compute.gpus_per_actor > 0 else "cpu")

    def pool(self, split: Split = "pool") -> Pool:
        """The images of a split, opened once per process."""
        return _open_pool(self.run_uri, self.source, split, self.pool_size)

    def current_model(self) -> Classifier:
        """The model that the round before this one trained, in eval mode, loaded once per process."""
        return _load_model(self.run_uri, self.round_index - 1, self.model, str(self.device))

    def trained_model(self) -> Classifier:
        """The model that this round trained, in eval mode, loaded once per process."""
        return _load_model(self.run_uri, self.round_index, self.model, str(self.device))

    @property
    def threads(self) -> int:
        """Threads of an actor."""
        return max(1, int(self.compute.cpus_per_actor))

    def begin_piece(self) -> None:
        """Set this process up for a piece of work, whatever pieces it had before.

        It keeps to the CPUs that were reserved, so that results do not depend on what else the node has; and
        what earlier pieces have freed goes back to the system.
        """
        torch.set_num_threads(self.threads)
        _trim_heap()


def _trim_heap() -> None:
    """Give the system the freed pages of glibc's heaps, which it would keep for later; elsewhere nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=2)
def _open_pool(run_uri: str, source: SourceSpec, split: Split, pool_size: int) -> Pool:
    files = RunDirectory(run_uri).manifest_files(split)
    assert source.image_size is not None
    assert source.channels is not None
    return Pool.open(files.filesystem, files.root, open_source(source), source.image_size, source.channels)


@lru_cache(maxsize=2)
def _load_model(run_uri: str, round_index: int, spec: ModelSpec, device: str) -> Classifier:
    round_ = RunDirectory(run_uri).round(round_index)
    # The first to ask may be in inference mode, whose tensors refuse the gradients that a later stage needs.
    with torch.inference_mode(False):
        # It may know fewer classes than there are by now.
        model = replace(spec, num_classes=round_.model_spec().num_classes).build(pretrained=False)
        model.load_state_dict(round_.weights())
        return model.to(device).eval()

"""Batch norm over the images of all workers, on CPU and GPU alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of the global batch, however unequal the workers' shares.

    In place of `torch.nn.SyncBatchNorm`, which takes no CPU tensors and counts every row it is given. Rows
    that only fill up a share are normalized but do not count (`counting`). Gradients flow through the
    statistics to all workers, twice if need be. All workers make the same forward and backward passes.

    Examples:
        >>> images = torch.randn(4, 3, 2, 2)
        >>> torch.allclose(SyncBatchNorm(3)(images), nn.BatchNorm2d(3)(images))  # one worker
        True
    """

    counts: Tensor | None = None
    """(M,) 1 for a row of the next forward pass that counts, 0 for one that does not; None counts all."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (M, C, ...) over its first and its last dimensions and all workers."""
        self._check_input_dim(input)
        workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or (workers == 1 and self.counts is None):
            return super().forward(input)
        shape = (1, -1, *[1] * (input.dim() - 2))
        dims = [0, *range(2, input.dim())]
        values = input if input.dtype == torch.float64 else input.float()

        # Sums of squares about the worker's own mean, so that none cancels; the rest in float64.
        with torch.no_grad():
            count = values.new_full((1,), values[:, 0].numel(), dtype=torch.float64)
            local_mean = values.mean(dims)
            if self.counts is not None:
                rows = self._rows(values)
                count = rows.sum(dtype=torch.float64).reshape(1) * values[0, 0].numel()
                local_mean = (values * rows).sum(dims) / count.clamp(min=1).to(values.dtype)
        centered = values - local_mean.reshape(shape)
        counted = centered if self.counts is None else centered * rows
        sums = counted.sum(dims).double()  # (C,)
        squares = (counted * centered).sum(dims).double()  # (C,)
        about = local_mean.double()
        moments = torch.cat(
            [sums + count * about, squares + about * (2 * sums + count * about), count]
        )  # (2 C + 1,)
        if workers > 1:
            moments = _sum_over_workers(moments)
        first, second, count = moments.split([self.num_features, self.num_features, 1])
        mean = first / count.clamp(min=1)
        variance = (second / count.clamp(min=1) - mean.square()).clamp(min=0)
        self._move(mean.detach(), variance.detach(), count.detach())

        scale = torch.rsqrt(variance + self.eps)
        shift = (about - mean) * scale
        if self.affine:
            scale = scale * self.weight
            shift = shift * self.weight + self.bias
        scale, shift = scale.to(values.dtype).reshape(shape), shift.to(values.dtype).reshape(shape)
        return torch.addcmul(shift, centered, scale).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes (M, C, ...), not {tuple(input.shape)}")

    def _rows(self, values: Tensor) -> Tensor:
        """Which rows count, to be multiplied with (M, C, ...)."""
        assert self.counts is not None
        if len(self.counts) != len(values):
            raise ValueError(
                f"batch norm got {len(values)} rows of a batch of {len(self.counts)}: a model that folds "
                "other dimensions into the first cannot be synchronized"
            )
        return self.counts.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, unless no row counted."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        any_row = (count > 0).double()
        momentum = any_row * self.momentum if self.momentum is not None else any_row
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(any_row[0].long())
            if self.momentum is None:
                momentum = any_row / self.num_batches_tracked.clamp(min=1)
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_(running + momentum * (value - running))


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Put a `SyncBatchNorm` in each batch norm's place, with the same parameters and buffers.

    Returns:
        The same model, or a new module where the model itself is a batch norm.
    """
    if isinstance(model, _BatchNorm) and not isinstance(model, SyncBatchNorm):
        return _synchronized(model)
    for name, child in model.named_children():
        setattr(model, name, synchronize_batch_norm(child))
    return model


@contextmanager
def counting(model: nn.Module, counts: Tensor | None) -> Iterator[None]:
    """Tell each `SyncBatchNorm` which rows of the forward passes count.

    Args:
        model: Wrapped or not.
        counts: (M,) 1 or 0 for each row, or None where all count.
    """
    layers = []
    if counts is not None:
        layers = [module for module in model.modules() if isinstance(module, SyncBatchNorm)]
    for layer in layers:
        layer.counts = counts
    try:
        yield
    finally:
        for layer in layers:
            layer.counts = None


def _synchronized(layer: _BatchNorm) -> SyncBatchNorm:
    synchronized = SyncBatchNorm(
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
    )
    synchronized.weight, synchronized.bias = layer.weight, layer.bias
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(synchronized, name, buffer)
    return synchronized.train(layer.training)


class _SumOverWorkers(torch.autograd.Function):
    """All-reduce whose derivative is itself: each worker's part counts in all workers' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _SumOverWorkers.apply(gradients[0].contiguous())  # type: ignore[no-untyped-call]
        return result


@torch.compiler.disable
def _sum_over_workers(values: Tensor) -> Tensor:
    result: Tensor = _SumOverWorkers.apply(values)  # type: ignore[no-untyped-call]
    return result

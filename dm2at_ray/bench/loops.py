"""The training loops that are timed: clean, the textbook's FGSM, and ours. Each call is one step.

The clean and the textbook loop find all images as floats on the device, so that nothing but training is
timed; ours begins, as in a run, with uint8 images in the host's memory, and sums up the losses that a run
reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.training import LabeledSet, TrainSettings
from dm2at_ray.training.batch import load_batch
from dm2at_ray.training.compiled import compiled
from dm2at_ray.training.layout import prefer_channels_last
from dm2at_ray.training.loop import STEPS_PER_LOOK
from dm2at_ray.training.optimizer import make_optimizer
from dm2at_ray.training.order import epoch_order
from dm2at_ray.training.placed import PlacedSet
from dm2at_ray.training.report import SUMS
from dm2at_ray.training.step import train_step
from dm2at_ray.training.transfer import to_pixels
from dm2at_ray.training.watch import LossWatch


def clean_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, *, bf16: bool
) -> Tensor:
    """One forward and one backward pass.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes).
        optimizer: of its parameters.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        bf16: whether the forward pass runs under autocast.

    Returns:
        The loss, a scalar without a graph.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def textbook_fgsm_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    clean_weight: float,
) -> Tensor:
    """Adversarial training as tutorials and papers' code write it: three forward and three backward passes.

    The attack is that of PyTorch's FGSM tutorial, and of fast_adversarial (Wong et al., arXiv 2001.03994) but
    for its random start: `loss.backward()`, which computes the parameters' gradients as well and throws them
    away. The loss is that of Goodfellow et al. (arXiv 1412.6572, section 6).

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, classes); normalizes by itself.
        optimizer: of its parameters.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) int64, which the attack leads away from.
        epsilon: step of the attack.
        clean_weight: λ.

    Returns:
        λ · clean loss + (1 - λ) · adversarial loss, a scalar without a graph.
    """
    attacked = images.clone().requires_grad_()
    model.zero_grad()
    F.cross_entropy(model(attacked), labels).backward()  # type: ignore[no-untyped-call]
    assert attacked.grad is not None
    adversarial = torch.clamp(images + epsilon * attacked.grad.sign(), 0, 1)

    clean_loss = F.cross_entropy(model(images), labels)
    adversarial_loss = F.cross_entropy(model(adversarial), labels)
    loss = clean_weight * clean_loss + (1 - clean_weight) * adversarial_loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@dataclass(eq=False)
class PlainLoop:
    """Steps over shuffled batches of tensors that lie on the device.

    Attributes:
        step: (images, labels) to the loss.
        images: (M, C, S, S) float32 in [0, 1].
        labels: (M,) int64.
        batch_size: samples of a step; divides M, so that all batches have one shape.
        loss: of the last step.
    """

    step: Callable[[Tensor, Tensor], Tensor]
    images: Tensor
    labels: Tensor
    batch_size: int
    loss: Tensor | None = field(default=None, init=False)
    _batches: Iterator[Tensor] = field(default_factory=lambda: iter(()), init=False)

    def __call__(self) -> int:
        """Take the next step."""
        rows = next(self._batches, None)
        if rows is None:
            order = torch.randperm(len(self.images), device=self.images.device)
            self._batches = iter(order.split(self.batch_size))
            rows = next(self._batches)
        self.loss = self.step(self.images[rows], self.labels[rows])
        return len(rows)

    def last_loss(self) -> float:
        """Return the last step's mean loss per sample."""
        assert self.loss is not None
        return self.loss.item()


class OurLoop:
    """Steps of Step 8 as `dm2at_ray.training.train` takes them on one worker.

    Args:
        model: as PlainLoop's, on the device, in train mode.
        labeled: M samples on the host.
        settings: of the training; its batch size divides M.
        seed: of order and draws.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, labeled: LabeledSet, settings: TrainSettings, seed: int, device: torch.device
    ) -> None:
        prefer_channels_last(model, to_pixels(labeled.images[:2], device))
        self._model = compiled(model) if settings.compile else model
        self._labeled = labeled
        self._placed = PlacedSet(labeled, device)
        self._settings = settings
        self._seed = seed
        self._device = device
        self._optimizer = make_optimizer(model, settings)
        self._watch = LossWatch(world_size=1)
        self._sums = torch.zeros(8)
        self._step = 0

    def __call__(self) -> int:
        """Take the next step."""
        epoch, step = divmod(self._step, len(self._labeled) // self._settings.batch_size)
        if step == 0:
            self._order = epoch_order(
                self._labeled.sample_ids,
                self._settings.batch_size,
                seed=self._seed,
                round_index=0,
                epoch=epoch,
            )
        rows = self._order.global_batch(step)
        batch = load_batch(
            self._placed,
            rows,
            filler=int(rows[0]),
            settings=self._settings,
            seed=self._seed,
            round_index=0,
            epoch=epoch,
        )
        self._sums = train_step(
            self._model, self._model, self._optimizer, batch, self._settings, global_count=len(rows)
        )
        self._watch.add(self._sums)
        self._step += 1
        if self._step % STEPS_PER_LOOK == 0:
            self._watch.flush()
        return len(rows)

    def last_loss(self) -> float:
        """Return the last step's mean loss per sample."""
        names = dict(zip(SUMS, self._sums.tolist(), strict=True))
        return names["total_loss"] / names["samples"]

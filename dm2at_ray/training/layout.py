"""Channels-last memory: the layout that convolutions are fastest in, where a model takes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dm2at_ray.models.modes import evaluating


def prefer_channels_last(model: nn.Module, images: Tensor) -> None:
    """Lay the weights of convolutions out channels-last, in place; no value changes.

    A model whose forward pass then fails, for it calls `view` on feature maps, keeps the layout that it came
    in.

    Args:
        model: On the device that it is trained on; tried there in eval mode.
        images: (M, C, H, W), some of those that it is trained on.
    """
    before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dim() == 4]
    if not before:
        return
    for parameter, values in before:
        # A copy, for the strides of a weight of one pixel or channel: its gradient comes with these, and
        # DistributedDataParallel would move it into others in every step.
        parameter.data = torch.empty_like(values, memory_format=torch.channels_last).copy_(values)
    try:
        with evaluating(model), torch.no_grad():
            model(laid_out(images, model))
    except RuntimeError:
        for parameter, values in before:
            parameter.data = values


def laid_out(images: Tensor, model: nn.Module) -> Tensor:
    """The (M, C, H, W) images as the model's weights are: channels-last or contiguous."""
    if _is_channels_last(model):
        return images.contiguous(memory_format=torch.channels_last)
    # Images of one channel are both; the strides that a view gives them make feature maps contiguous, too.
    return images.contiguous().view(images.shape)


def _is_channels_last(model: nn.Module) -> bool:
    """Whether the first convolution of more than one channel and pixel is laid out so."""
    for parameter in model.parameters():
        if parameter.dim() == 4 and not (
            parameter.is_contiguous() and parameter.is_contiguous(memory_format=torch.channels_last)
        ):
            return parameter.is_contiguous(memory_format=torch.channels_last)
    return False

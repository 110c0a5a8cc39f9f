"""Every torchvision classifier by its name, adapted to small images and to any number of channels."""

from __future__ import annotations

import logging
from itertools import chain

import torch
import torchvision.models as zoo
from torch import nn
from torch.func import functional_call

from dm2at_ray.errors import ModelError
from dm2at_ray.models.stem import first_convolution

logger = logging.getLogger(__name__)

SMALL_IMAGE = 64
UPSAMPLED_SIZES = (32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 299, 384, 448)


def classifier_names() -> list[str]:
    """The names of torchvision's classification models, sorted."""
    return zoo.list_models(module=zoo)


def torchvision_network(
    name: str, num_classes: int, in_channels: int, image_size: int
) -> tuple[nn.Module, int]:
    """Build a torchvision classifier with fresh weights.

    For images of at most 64 pixels the stem keeps the resolution: ResNets and DenseNets get a 3x3 convolution
    of stride 1 and no max-pool (as He et al. for CIFAR-10, arXiv 1512.03385, section 4.2), in other families
    the first convolution gets stride 1; vision transformers are built for the image size instead. Auxiliary
    heads are left out; SqueezeNet's 1x1 convolution becomes a linear head.

    Args:
        name: one of ``classifier_names()``.
        num_classes: number of logits.
        in_channels: image channels C.
        image_size: height and width in pixels.

    Returns:
        The network, and the image size that it takes: ``image_size`` if it can, else the smallest of
        ``UPSAMPLED_SIZES`` above it that it can, to which the caller is to resize.

    Raises:
        ModelError: the network takes none of these sizes.
    """
    net = zoo.get_model(name, num_classes=num_classes, **_options(name, image_size))
    if isinstance(net, zoo.SqueezeNet):
        net.classifier = _linear_classifier(net.classifier, num_classes)
    _adapt_stem(net, in_channels, small=image_size <= SMALL_IMAGE)
    sizes = [image_size, *(size for size in UPSAMPLED_SIZES if size > image_size)]
    if isinstance(net, zoo.VisionTransformer):
        sizes = [net.image_size]
    for size in sizes:
        if _takes(net, in_channels, size):
            if size != image_size:
                logger.info(
                    "model %s cannot take %d pixels: images are upsampled to %d", name, image_size, size
                )
            return net, size
    raise ModelError(
        f"model {name} takes neither images of {image_size} pixels nor any size up to {UPSAMPLED_SIZES[-1]}; "
        "choose another image size or model"
    )


def _options(name: str, image_size: int) -> dict[str, object]:
    builder = zoo.get_model_builder(name)
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        return {"image_size": -(-image_size // patch) * patch}
    if builder in (zoo.googlenet, zoo.inception_v3):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _linear_classifier(convolutional: nn.Sequential, num_classes: int) -> nn.Sequential:
    """SqueezeNet's dropout, then a linear layer under the name of the convolution that it replaces."""
    dropout, convolution = convolutional[0], convolutional[1]
    assert isinstance(convolution, nn.Conv2d)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), dropout)
    return nn.Sequential(pooled, nn.Linear(convolution.in_channels, num_classes))


def _adapt_stem(net: nn.Module, in_channels: int, small: bool) -> None:
    name = first_convolution(net)
    assert name is not None, "every torchvision classifier begins with a convolution"
    stem = net.get_submodule(name)
    assert isinstance(stem, nn.Conv2d)
    if small and isinstance(net, (zoo.ResNet, zoo.DenseNet)):
        stem = nn.Conv2d(in_channels, stem.out_channels, kernel_size=3, padding=1, bias=False)
        net.set_submodule("maxpool" if isinstance(net, zoo.ResNet) else "features.pool0", nn.Identity())
    else:
        if in_channels != stem.in_channels:
            stem = _with_channels(stem, in_channels)
        if small and not isinstance(net, zoo.VisionTransformer):
            stem.stride = (1, 1)
    net.set_submodule(name, stem)


def _with_channels(stem: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The stem for other images, with fresh weights."""
    like = {"kernel_size": stem.kernel_size, "stride": stem.stride, "padding": stem.padding}
    return nn.Conv2d(in_channels, stem.out_channels, bias=stem.bias is not None, **like)  # type: ignore[arg-type]


def _takes(net: nn.Module, in_channels: int, size: int) -> bool:
    """Whether a forward pass at this size goes through: on the meta device, so without arithmetic."""
    tensors = {name: tensor.to("meta") for name, tensor in chain(net.named_parameters(), net.named_buffers())}
    training = net.training
    net.eval()
    try:
        with torch.device("meta"), torch.no_grad():
            functional_call(net, tensors, (torch.empty(2, in_channels, size, size),))
    except (RuntimeError, ValueError, AssertionError):
        return False
    finally:
        net.train(training)
    return True

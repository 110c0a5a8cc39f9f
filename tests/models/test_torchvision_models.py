import logging
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dm2at_ray.errors import ModelError
from dm2at_ray.models import ModelSpec
from dm2at_ray.models.torchvision_models import classifier_names, torchvision_network

# Widths of the last layer as the papers give them.
FEATURES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "resnet18": 512,
    "resnet50": 2048,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "vgg16": 4096,
    "vit_b_16": 768,
}


class ShapesOnly(TorchFunctionMode):
    """Weights on the meta device, so that 80 models need no memory and no arithmetic.

    Unlike ``torch.device("meta")`` it leaves the small tensors real from which RegNets compute their widths,
    and it passes batch and layer norm by, which keep every shape but take half of the time there.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if func in (F.batch_norm, F.layer_norm):
            return args[0]
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def shapes_only(name: str) -> AbstractContextManager[object]:
    # These two index with tensors of their own making, which must then be where the weights are.
    return torch.device("meta") if name.startswith(("swin", "maxvit")) else ShapesOnly()


@pytest.mark.parametrize("name", classifier_names())
def test_torchvision_network__every_classifier_takes_32_pixels(name: str) -> None:
    with shapes_only(name):
        classifier = ModelSpec(name, num_classes=7, channels=3, image_size=32).build()
    assert all(parameter.is_meta for parameter in classifier.parameters())
    assert classifier.num_classes == 7
    assert classifier.feature_dim == FEATURES.get(name, classifier.feature_dim)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small", "vit_b_16"])
@pytest.mark.parametrize(("channels", "image_size"), [(1, 28), (4, 64), (3, 224)])
def test_torchvision_network__other_sizes_and_channels(name: str, channels: int, image_size: int) -> None:
    with shapes_only(name):
        classifier = ModelSpec(name, 5, channels, image_size).build().to("meta")
        assert classifier(torch.empty(3, channels, image_size, image_size)).shape == (3, 5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_features__are_the_input_of_the_last_linear_layer(name: str) -> None:
    torch.manual_seed(3)
    untouched = zoo.get_model(name, num_classes=7).eval()
    seen: list[Tensor] = []
    last = [module for module in untouched.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_hook(lambda _layer, inputs, _out: seen.append(inputs[0]))
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = untouched((images - 0.5) / 0.25)
        # Above 64 pixels the stem is torchvision's own, and the same seed draws the same weights.
        classifier = ModelSpec(name, 7, 3, 96).build(seed=3).eval()
        torch.testing.assert_close(classifier.features(images), seen[0])
        torch.testing.assert_close(classifier(images), logits)


def test_torchvision_network__small_images_keep_their_resolution() -> None:
    net, size = torchvision_network("resnet18", 10, 1, 28)
    assert size == 28
    assert (net.conv1.kernel_size, net.conv1.stride, net.conv1.in_channels) == ((3, 3), (1, 1), 1)
    maps: list[Tensor] = []
    net.layer4.register_forward_hook(lambda _layer, _inputs, out: maps.append(out))
    net.eval()(torch.rand(1, 1, 28, 28))
    assert maps[0].shape == (1, 512, 4, 4)  # 28, 14, 7, 4: torchvision's own stem leaves 1x1


def test_torchvision_network__upsamples_where_the_net_needs_more_pixels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), torch.device("meta"):
        classifier = ModelSpec("vgg11", 10, 1, 28).build()
    assert caplog.messages == ["model vgg11 cannot take 28 pixels: images are upsampled to 32"]
    assert isinstance(classifier.body.upsample, nn.Upsample)
    assert classifier.body.upsample.size == (32, 32)


def test_torchvision_network__vision_transformer_is_built_for_the_image_size() -> None:
    with torch.device("meta"):
        fitting, fitting_size = torchvision_network("vit_b_16", 10, 3, 64)
        rounded, rounded_size = torchvision_network("vit_b_16", 10, 3, 28)
    assert (fitting.image_size, fitting_size) == (64, 64)
    assert (rounded.image_size, rounded_size) == (32, 32)  # the next multiple of its 16-pixel patches


def test_torchvision_network__says_when_no_size_will_do() -> None:
    with (
        torch.device("meta"),
        pytest.raises(ModelError, match="maxvit_t takes neither images of 449 pixels nor"),
    ):
        torchvision_network("maxvit_t", 10, 3, 449)

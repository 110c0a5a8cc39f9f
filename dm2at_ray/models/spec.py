"""What a classifier is made from, as plain values that travel in JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models.classifier import Classifier, split_at_last_linear
from dm2at_ray.models.normalize import Normalize, check_statistics
from dm2at_ray.models.registry import make_network
from dm2at_ray.models.weights import is_classifier_file, load_pretrained


@dataclass(frozen=True)
class ModelSpec:
    """A classifier by name; ``build`` makes it.

    Raises:
        ModelError: a number is out of range, or the statistics do not fit the channels.

    Examples:
        >>> spec = ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8)
        >>> classifier = spec.build(seed=0)
        >>> classifier.feature_dim, classifier(torch.rand(2, 1, 8, 8)).shape
        (64, torch.Size([2, 10]))
        >>> ModelSpec.from_json(spec.to_json()) == spec
        True
    """

    name: str
    """``small_cnn``, a torchvision classifier, or an import path ``package.module:function``."""

    num_classes: int
    """Number of classes, at least 2."""

    channels: int
    """Image channels: 1 for gray, 3 for RGB, or any other number."""

    image_size: int
    """Height and width of the images, in pixels."""

    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in [0, 1]: one value, or one a channel."""

    std: tuple[float, ...] = (0.25,)
    """Divides them then: one value, or one a channel; above 0."""

    weights: str | None = None
    """A local .safetensors file to start from: the named model's own weights, or a saved Classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        for field, smallest in (("num_classes", 2), ("channels", 1), ("image_size", 1)):
            if getattr(self, field) < smallest:
                raise ModelError(f"{field} is {getattr(self, field)}; give at least {smallest}")
        check_statistics(self.channels, self.mean, self.std)

    def build(self, *, seed: int | None = None, pretrained: bool = True) -> Classifier:
        """Build the classifier, in training mode, on the CPU.

        Args:
            seed: initializes the weights and leaves the caller's random numbers as they were; None: torch's
                global generator is used.
            pretrained: False leaves ``weights`` alone, for a model whose own checkpoint is loaded next.

        Raises:
            ModelError: the model is unknown, takes no such images or cannot be split, or ``weights`` do not
                fit it.
        """
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                # Not torch.manual_seed: that would reseed the GPUs too, which are not forked.
                torch.default_generator.manual_seed(seed)
            return self._build(self.weights if pretrained else None)

    def to_json(self) -> str:
        """The spec as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The spec that ``to_json`` wrote.

        Raises:
            ModelError: the text is no JSON object with the spec's fields.
        """
        try:
            return cls(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise ModelError(
                f"not a model spec in JSON ({error}); write it with ModelSpec.to_json"
            ) from error

    def _build(self, weights: str | None) -> Classifier:
        network, size = make_network(self.name, self.num_classes, self.channels, self.image_size)
        whole_file = weights is not None and is_classifier_file(weights)
        if weights is not None and not whole_file:
            load_pretrained(network, weights)
        if size != self.image_size:
            upsample = nn.Upsample(size=(size, size), mode="bilinear")
            network = nn.Sequential(OrderedDict(upsample=upsample, network=network))
        body, head = split_at_last_linear(network, self._probe(network), name=f"model {self.name}")
        if head.out_features != self.num_classes:
            raise ModelError(
                f"model {self.name} gives {head.out_features} logits for {self.num_classes} classes; "
                "let its last nn.Linear have num_classes outputs"
            )
        classifier = Classifier(Normalize(self.channels, self.mean, self.std), body, head)
        if weights is not None and whole_file:
            load_pretrained(classifier, weights)
        return classifier

    def _probe(self, network: nn.Module) -> torch.Tensor:
        """Two images where the network is, from a generator of their own: building draws for weights only."""
        shape = (2, self.channels, self.image_size, self.image_size)
        images = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        return images.to(next(network.parameters(), images).device)

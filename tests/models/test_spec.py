import json

import pytest
import torch

from dm2at_ray.errors import ModelError
from dm2at_ray.models import ModelSpec


def test_json__round_trip_is_plain() -> None:
    spec = ModelSpec("resnet18", 10, 3, 32, mean=(0.4, 0.5, 0.6), std=(0.2,), weights="start.safetensors")
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json()) == {
        "name": "resnet18",
        "num_classes": 10,
        "channels": 3,
        "image_size": 32,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2],
        "weights": "start.safetensors",
    }


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"name": "small_cnn"}', '{"nonsense": 1}'])
def test_from_json__refuses_what_is_no_spec(text: str) -> None:
    with pytest.raises(ModelError, match="not a model spec in JSON"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_classes", 1, "num_classes is 1; give at least 2"),
        ("channels", 0, "channels is 0; give at least 1"),
        ("image_size", 0, "image_size is 0; give at least 1"),
        ("std", (0.0,), "not positive"),
        ("mean", (0.1, 0.2), "2 values for images of 1 channels"),
    ],
)
def test_model_spec__refuses_values_out_of_range(field: str, value: object, said: str) -> None:
    values = {"name": "small_cnn", "num_classes": 10, "channels": 1, "image_size": 8, field: value}
    with pytest.raises(ModelError, match=said):
        ModelSpec(**values)  # type: ignore[arg-type]


def test_build__seed_decides_the_weights_and_leaves_the_callers_generator_alone() -> None:
    spec = ModelSpec("small_cnn", 10, 1, 8)
    torch.manual_seed(11)
    untouched = torch.rand(3)

    torch.manual_seed(11)
    first, second, other = spec.build(seed=5), spec.build(seed=5), spec.build(seed=6)

    assert torch.equal(torch.rand(3), untouched)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_build__without_a_seed_follows_the_global_generator() -> None:
    spec = ModelSpec("small_cnn", 10, 1, 8)
    torch.manual_seed(5)
    built = spec.build()
    assert torch.equal(built.head.weight, spec.build(seed=5).head.weight)
    assert not torch.equal(built.head.weight, spec.build().head.weight)


def test_build__epsilon_in_pixels_means_the_same_under_any_statistics() -> None:
    """Normalization is the first layer: scaling it away gives the same logits for the same pixels."""
    raw = ModelSpec("small_cnn", 10, 1, 8, mean=(0.0,), std=(1.0,)).build(seed=0).eval()
    scaled = ModelSpec("small_cnn", 10, 1, 8, mean=(0.3,), std=(0.2,)).build(seed=0).eval()
    pixels = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(scaled(pixels), raw((pixels - 0.3) / 0.2))

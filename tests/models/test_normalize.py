import pytest
import torch
from torchvision.transforms.functional import normalize

from dm2at_ray.errors import ModelError
from dm2at_ray.models import Normalize


def test_normalize__agrees_with_torchvision() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    torch.testing.assert_close(Normalize(3, mean, std)(images), normalize(images, mean, std))


def test_normalize__one_value_serves_all_channels() -> None:
    layer = Normalize(2, mean=[0.5], std=[0.25])
    images = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    assert layer(images).flatten().tolist() == [-2.0, 2.0]


def test_normalize__statistics_are_saved_but_not_trained() -> None:
    layer = Normalize(1, mean=[0.5], std=[0.25])
    assert set(layer.state_dict()) == {"mean", "std"}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.5, 0.5], [0.2], r"mean \[0.5, 0.5\] has 2 values for images of 3 channels; give 1 value, or 3"),
        ([0.5], [0.2, 0.0, 0.2], r"std \[0.2, 0.0, 0.2\] has a value that is not positive"),
        ([0.5], [-0.2], "not positive"),
        ([float("nan")], [0.2], "not finite"),
        ([0.5], [], "has 0 values"),
    ],
)
def test_normalize__refuses_statistics_that_do_not_fit(mean: list, std: list, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Normalize(3, mean, std)

import pytest

from dm2at_ray.errors import ModelError
from dm2at_ray.models import make_network
from dm2at_ray.models.small_cnn import SmallCNN


def test_make_network__finds_built_in_torchvision_and_imported_models() -> None:
    assert isinstance(make_network("small_cnn", 10, 1, 28)[0], SmallCNN)
    assert type(make_network("squeezenet1_1", 10, 3, 32)[0]).__name__ == "SqueezeNet"
    assert isinstance(make_network("dm2at_ray.models.small_cnn:small_cnn", 10, 1, 28)[0], SmallCNN)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ResNet18", "model 'ResNet18' is unknown; did you mean resnet18 or"),
        ("smallcnn", "did you mean small_cnn"),
        ("nothing-like-it", "model 'nothing-like-it' is unknown; give small_cnn, a torchvision model, or"),
        ("fcn_resnet50", "is unknown"),  # torchvision has it, but it segments
    ],
)
def test_make_network__unknown_name_gets_close_matches(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        make_network(name, 10, 3, 32)

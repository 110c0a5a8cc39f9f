import sys
from pathlib import Path

import pytest
import torch

from dm2at_ray.errors import ModelError
from dm2at_ray.models import ModelSpec

MODULE = """
from torch import nn

NUMBER = 3

def good(num_classes, in_channels, image_size):
    pixels = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 6), nn.ReLU(), nn.Linear(6, num_classes))

def other_keywords(classes):
    return good(classes, 1, 4)

def no_module(**sizes):
    return "a network"

def too_many_logits(num_classes, in_channels, image_size):
    return good(num_classes + 1, in_channels, image_size)

def other_size(num_classes, in_channels, image_size):
    return good(num_classes, in_channels, image_size + 1)
"""


@pytest.fixture(autouse=True)
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_code.py").write_text(MODULE)
    (tmp_path / "user_code_broken.py").write_text("import a_library_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_code", raising=False)


def test_user_network__is_called_with_the_sizes_and_split() -> None:
    classifier = ModelSpec("user_code:good", num_classes=5, channels=2, image_size=4).build()
    assert (classifier.feature_dim, classifier.num_classes) == (6, 5)
    assert classifier(torch.rand(3, 2, 4, 4)).shape == (3, 5)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "no_such_module:good",
            "importing no_such_module failed .No module named 'no_such_module'.; install it",
        ),
        (
            "user_code_broken:good",
            "importing user_code_broken failed .No module named 'a_library_nobody_has'.",
        ),
        (
            "user_code:nobody",
            "user_code has no nobody; define def nobody.num_classes, in_channels, image_size.",
        ),
        ("user_code:NUMBER", "NUMBER is int, not a function"),
        ("user_code:", "'user_code:' is no import path; write it as package.module:function"),
        (".relative:good", "is no import path"),
        ("user_code:other_keywords", "does not take .num_classes, in_channels, image_size."),
        ("user_code:no_module", "returned str; return a torch.nn.Module"),
        ("user_code:too_many_logits", "user_code:too_many_logits gives 6 logits for 5 classes"),
        ("user_code:other_size", r"user_code:other_size cannot take images of shape \(2, 2, 4, 4\)"),
    ],
)
def test_user_network__names_the_fault_and_the_mend(path: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        ModelSpec(path, num_classes=5, channels=2, image_size=4).build()
    assert "\n" not in str(raised.value)

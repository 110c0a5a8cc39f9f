import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models import Classifier, Normalize, split_at_last_linear

IMAGES = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def by_hand(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.zeros(len(weight))
    return layer


def test_classifier__normalizes_then_takes_features_then_logits() -> None:
    body = nn.Sequential(nn.Flatten(), by_hand([[1.0, 0.0], [0.0, 2.0]]))
    classifier = Classifier(
        Normalize(2, mean=[0.5], std=[0.5]), body, by_hand([[1.0, 1.0], [1.0, -1.0], [0.0, 3.0]])
    )
    images = torch.tensor([1.0, 0.5]).reshape(1, 2, 1, 1)  # normalized: 1 and 0
    assert classifier.features(images).tolist() == [[1.0, 0.0]]
    assert classifier(images).tolist() == [[1.0, 1.0, 0.0]]
    assert (classifier.feature_dim, classifier.num_classes) == (2, 3)


class AuxiliaryHeadDefinedLast(nn.Module):
    """The last linear layer by name is not the last one that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(4, 3)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        self.auxiliary(features)
        return self.classify(features)


class TwoNames(AuxiliaryHeadDefinedLast):
    """The head is registered twice and used under its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.classify

    def forward(self, images: Tensor) -> Tensor:
        return self.alias(images.flatten(1))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)),
        nn.Sequential(
            nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sequential(nn.Linear(6, 3, bias=False))
        ),
        AuxiliaryHeadDefinedLast(),
        TwoNames(),
    ],
    ids=[
        "linear alone",
        "linears in a row",
        "dropout before it",
        "nested",
        "auxiliary defined last",
        "two names",
    ],
)
def test_split_at_last_linear__halves_give_what_the_whole_gave(model: nn.Module) -> None:
    seen: list[Tensor] = []
    model.eval()
    head = next(
        module for module in reversed(list(model.modules())) if getattr(module, "out_features", 0) == 3
    )
    hook = head.register_forward_hook(lambda _layer, inputs, _out: seen.append(inputs[0]))
    logits = model(IMAGES)
    hook.remove()

    body, found = split_at_last_linear(model, IMAGES)

    assert found is head
    assert torch.equal(body(IMAGES), seen[0])
    assert torch.equal(found(body(IMAGES)), logits)


def test_split_at_last_linear__leaves_mode_and_batch_statistics_as_they_were() -> None:
    frozen = nn.BatchNorm2d(1).eval()
    running = nn.BatchNorm2d(1)
    model = nn.Sequential(frozen, running, nn.Flatten(), nn.Linear(4, 3))
    body, _ = split_at_last_linear(model, IMAGES)
    assert (body.training, frozen.training, running.training) == (True, False, True)
    assert running.running_mean is not None
    assert running.running_mean.item() == 0.0


class Wrong(nn.Module):
    def __init__(self, after: object) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.after = after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.linear, images.flatten(1))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda linear, x: F.log_softmax(linear(x), dim=1), "return that layer's output as it is"),
        (lambda linear, x: 10 * linear(x), "return that layer's output as it is"),
        (lambda linear, x: linear(linear(x)), "calls its last nn.Linear .4 to 4. more than once"),
        (lambda linear, x: x, "calls no nn.Linear"),
        (lambda linear, x: (linear(x), x), "to tuple; return logits of shape .5, classes."),
        (lambda linear, x: linear(x).sum(), r"to \(\); return logits"),
        (lambda linear, x: linear(x[:, :3]), r"cannot take images of shape \(5, 1, 2, 2\): mat1 and mat2"),
    ],
    ids=["softmax", "scaled", "used twice", "no linear", "tuple", "scalar", "wrong size"],
)
def test_split_at_last_linear__says_what_is_wrong(after: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        split_at_last_linear(Wrong(after), IMAGES, name="model mine")

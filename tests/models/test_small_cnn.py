import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from dm2at_ray.errors import ModelError
from dm2at_ray.models import ModelSpec


@pytest.mark.parametrize("image_size", [8, 9, 16, 17, 28, 32, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_cnn__takes_every_size(image_size: int, channels: int) -> None:
    classifier = ModelSpec("small_cnn", 10, channels, image_size).build(seed=0)
    images = torch.rand(2, channels, image_size, image_size)
    assert classifier(images).shape == (2, 10)
    features = classifier.features(images)
    assert features.shape == (2, 64)
    assert (features >= 0).all()  # a ReLU comes before the pooling
    assert sum(parameter.numel() for parameter in classifier.parameters()) < 100_000


@pytest.mark.parametrize("image_size", [7, 65])
def test_small_cnn__refuses_other_sizes(image_size: int) -> None:
    with pytest.raises(ModelError, match=f"8 to 64 pixels, not {image_size}; choose another image size"):
        ModelSpec("small_cnn", 10, 1, image_size).build()


def test_small_cnn__learns_digits_from_400_labels() -> None:
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images, classes = torch.tensor(pixels / 16.0).float().reshape(-1, 1, 8, 8), torch.tensor(labels)
    order = torch.randperm(len(images))
    known, unseen = order[:400], order[400:]
    classifier = ModelSpec("small_cnn", 10, 1, 8).build(seed=0)
    steps = 15 * 8
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    for step in range(steps):
        batch = known[torch.arange(50 * step, 50 * step + 50) % 400]
        optimizer.zero_grad()
        F.cross_entropy(classifier(images[batch]), classes[batch]).backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    accuracy = (classifier(images[unseen]).argmax(1) == classes[unseen]).float().mean().item()
    assert accuracy >= 0.95

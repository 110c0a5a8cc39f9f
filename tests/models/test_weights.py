import logging
import pickle
from pathlib import Path

import pytest
import torch
import torchvision.models as zoo
from safetensors.torch import load_file, save_file
from torch import nn

from dm2at_ray.errors import ModelError
from dm2at_ray.models import ModelSpec, load_pretrained, load_weights, save_weights

SPEC = ModelSpec("small_cnn", 10, 1, 8, mean=(0.3,), std=(0.2,))


def test_save_and_load_weights__round_trip(tmp_path: Path) -> None:
    saved = SPEC.build(seed=1)
    saved(torch.rand(8, 1, 8, 8))  # moves the running statistics of batch norm, which are saved too
    save_weights(saved, tmp_path / "model.safetensors")

    loaded = ModelSpec("small_cnn", 10, 1, 8).build(seed=2)
    load_weights(loaded, tmp_path / "model.safetensors")

    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.normalize.mean.item() == pytest.approx(0.3)  # the statistics come with the weights


def test_save_and_load_weights__tied_tensors(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    saved, loaded = tied(), tied()
    save_weights(saved, tmp_path / "tied.safetensors")
    assert len(load_file(tmp_path / "tied.safetensors")) == 3  # one weight, two biases
    load_weights(loaded, tmp_path / "tied.safetensors")
    assert torch.equal(loaded[1].weight, saved[0].weight)
    assert loaded[1].weight is loaded[0].weight


def test_load_weights__refuses_another_models_file_and_changes_nothing(tmp_path: Path) -> None:
    save_weights(ModelSpec("small_cnn", 7, 1, 8).build(), tmp_path / "seven.safetensors")
    classifier = SPEC.build(seed=0)
    before = classifier.body.state_dict()["layers.0.0.weight"].clone()
    with pytest.raises(ModelError, match=r"head.weight \(7, 64\) instead of \(10, 64\)"):
        load_weights(classifier, tmp_path / "seven.safetensors")
    assert torch.equal(classifier.body.state_dict()["layers.0.0.weight"], before)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_load_pretrained__pickles_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"fc.weight": 1}))
    with pytest.raises(
        ModelError, match=r"not a .safetensors file .*safetensors.torch.save_file\(torch.load"
    ):
        load_pretrained(SPEC.build(), path)


def test_load_pretrained__missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="are not there; give the path"):
        load_pretrained(SPEC.build(), tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_pretrained(SPEC.build(), tmp_path / "broken.safetensors")


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[zoo.ResNet, str]:
    torch.manual_seed(7)
    model = zoo.resnet18(num_classes=10).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(model.state_dict(), path)
    return model, str(path)


def test_build__weights_under_torchvisions_own_names(torchvision_file: tuple[zoo.ResNet, str]) -> None:
    model, path = torchvision_file
    images = torch.rand(2, 3, 96, 96)
    classifier = ModelSpec("resnet18", 10, 3, 96, mean=(0.0,), std=(1.0,), weights=path).build().eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), model(images))


def test_build__pretrained_false_needs_no_file() -> None:
    spec = ModelSpec("small_cnn", 10, 1, 8, weights="gone.safetensors")
    assert spec.build(pretrained=False).num_classes == 10
    with pytest.raises(ModelError, match=r"gone.safetensors are not there"):
        spec.build()


def test_build__head_and_small_stem_are_left_out_and_said(
    torchvision_file: tuple[zoo.ResNet, str], caplog: pytest.LogCaptureFixture
) -> None:
    model, path = torchvision_file
    with caplog.at_level(logging.WARNING):
        classifier = ModelSpec("resnet18", 4, 3, 32, weights=path).build()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("without a use: fc.weight, fc.bias, conv1.weight")
    assert torch.equal(classifier.body.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    assert classifier.num_classes == 4


def test_build__gray_stem_answers_as_the_rgb_copy_did(
    torchvision_file: tuple[zoo.ResNet, str], caplog: pytest.LogCaptureFixture
) -> None:
    model, path = torchvision_file
    with caplog.at_level(logging.WARNING):
        gray = ModelSpec("resnet18", 10, 1, 96, mean=(0.0,), std=(1.0,), weights=path).build().eval()
    assert caplog.messages[0].endswith("stem conv1 adapted from 3 to 1 channels")
    images = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(gray(images), model(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_build__any_other_difference_is_an_error(
    torchvision_file: tuple[zoo.ResNet, str], tmp_path: Path
) -> None:
    tensors = load_file(torchvision_file[1])
    tensors["layer5.weight"] = tensors.pop("layer1.0.conv1.weight")
    tensors["bn1.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError) as raised:
        ModelSpec("resnet18", 10, 3, 96, weights=str(tmp_path / "odd.safetensors")).build()
    assert "1 missing (layer1.0.conv1.weight)" in str(raised.value)
    assert "1 unexpected (layer5.weight)" in str(raised.value)
    assert "1 misshapen (bn1.bias (3,) instead of (64,))" in str(raised.value)


def test_build__another_models_file_names_the_first_few(torchvision_file: tuple[zoo.ResNet, str]) -> None:
    with pytest.raises(ModelError, match=r"\d+ missing \(layers.0.0.weight, .*, .* and \d+ more\)"):
        ModelSpec("small_cnn", 10, 1, 8, weights=torchvision_file[1]).build()


def test_build__starts_from_a_saved_classifier(tmp_path: Path) -> None:
    saved = SPEC.build(seed=1).eval()
    save_weights(saved, tmp_path / "start.safetensors")
    path = str(tmp_path / "start.safetensors")

    same = ModelSpec("small_cnn", 10, 1, 8, weights=path).build().eval()
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(same(images), saved(images))

    fewer_classes = ModelSpec("small_cnn", 4, 1, 8, weights=path).build().eval()
    assert fewer_classes(images).shape == (3, 4)
    assert torch.equal(fewer_classes.features(images), saved.features(images))


def test_build__auxiliary_heads_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = zoo.googlenet(num_classes=5, aux_logits=True, init_weights=False)
    save_file(published.state_dict(), tmp_path / "googlenet.safetensors")
    with caplog.at_level(logging.WARNING):
        ModelSpec("googlenet", 5, 3, 96, weights=str(tmp_path / "googlenet.safetensors")).build()
    assert "aux1.fc1.weight" in caplog.messages[0]
    assert "inception" not in caplog.messages[0]


def test_build__squeezenet_takes_all_but_the_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published = zoo.squeezenet1_1(num_classes=10)
    save_file(published.state_dict(), tmp_path / "squeezenet.safetensors")
    with caplog.at_level(logging.WARNING):
        ModelSpec("squeezenet1_1", 10, 3, 32, weights=str(tmp_path / "squeezenet.safetensors")).build()
    assert caplog.messages[0].endswith("without a use: classifier.1.weight, classifier.1.bias")


def test_load_pretrained__position_embedding_is_interpolated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tiny(image_size: int) -> zoo.VisionTransformer:
        return zoo.VisionTransformer(image_size, 8, 1, 2, hidden_dim=16, mlp_dim=16, num_classes=3)

    large, small = tiny(32), tiny(16)
    save_file(large.state_dict(), tmp_path / "vit.safetensors")
    with caplog.at_level(logging.WARNING):
        load_pretrained(small, tmp_path / "vit.safetensors")
    assert caplog.messages[0].endswith("position embedding interpolated to 16 pixels")
    token = small.encoder.pos_embedding[:, :1]  # (1, 1, D): the class token's is kept as it is
    assert torch.equal(token, large.encoder.pos_embedding[:, :1])
    assert torch.equal(small.conv_proj.weight, large.conv_proj.weight)

"""`dm2at export`: the files by themselves, in a process without this package, against the model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dm2at_ray.models import ModelSpec
from dm2at_ray.models import export as export_module
from dm2at_ray.store import RunDirectory

from .stages.digits_run import DigitsRun, make_digits_run

NAMES = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PACKAGE = "tests_own_networks"
BATCHES = (1, 7, 256)

ALONE = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
file, kind, given, taken = sys.argv[1:]
batches = np.load(given)
if kind == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    answers = {name: session.run(["logits"], {"images": batches[name]})[0] for name in batches.files}
else:
    import torch
    extra = {"metadata.json": ""}
    module = torch.jit.load(file, _extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    answers = {name: module(torch.from_numpy(batches[name])).detach().numpy() for name in batches.files}
np.savez(taken, **answers)
assert not [name for name in sys.modules if name.startswith("dm2at_ray")]
print(json.dumps(metadata))
"""

NETWORKS = """
import torch
from torch import nn

def own(num_classes, in_channels, image_size):
    pixels = in_channels * image_size**2
    hidden = nn.Sequential(nn.Linear(pixels, 12), nn.GELU(), nn.Dropout(0.9))
    return nn.Sequential(nn.Flatten(), hidden, nn.Linear(12, num_classes))

class Pairs(nn.Module):
    def __init__(self, pixels, num_classes):
        super().__init__()
        self.head = nn.Linear(pixels, num_classes)

    def forward(self, images):
        if len(images) == 2:  # What follows of this, an exporter takes for granted.
            return self.head(images.reshape(2, -1))
        return self.head(images.flatten(1))

def pairs(num_classes, in_channels, image_size):
    return Pairs(in_channels * image_size**2, num_classes)
"""

Dm2at = Callable[..., Any]


@pytest.fixture
def digits(tmp_path: Path) -> DigitsRun:
    return make_digits_run(str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is called: a folder with networks of the user's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f"{PACKAGE}.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    return tmp_path / "here"


def give_model(run: RunDirectory, spec: ModelSpec, seed: int = 7) -> nn.Module:
    """Let a model with weights, and statistics of its batch norms, that are nobody's default be round 1's."""
    model = spec.build(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.startswith("normalize"):
            value *= 1 + 0.2 * torch.rand(value.shape, generator=generator)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    run.round(1).write_model(safetensors.torch.save(state), spec, {})
    return model.eval()


def images(spec: ModelSpec, count: int) -> torch.Tensor:
    return torch.rand(count, spec.channels, spec.image_size, spec.image_size)


def answers_alone(file: Path, kind: str, batches: dict[str, torch.Tensor]) -> tuple[dict[str, Any], Any]:
    """Metadata of a file and its logits for each batch, from a process without this package."""
    folder = file.parent
    np.savez(folder / "given.npz", **{name: batch.numpy() for name, batch in batches.items()})
    command = [sys.executable, "-I", "-c", ALONE, file, kind, folder / "given.npz", folder / "taken.npz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), np.load(folder / "taken.npz")


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("small_cnn", num_classes=10, channels=1, image_size=8, mean=(0.3,), std=(0.2,)),
        ModelSpec("resnet18", 10, channels=3, image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
    ],
    ids=lambda spec: spec.name,
)
def test_export__the_file_alone_answers_as_the_model(
    kind: str, spec: ModelSpec, digits: DigitsRun, folder: Path, dm2at: Dm2at
) -> None:
    model = give_model(digits.directory, spec)
    digits.directory.files.write_json("classes.json", {"names": NAMES})
    file = folder / "model.out"

    answer = dm2at("export", digits.directory.uri, "-o", "model.out", "--format", kind, "--json")

    assert (answer.code, answer.stderr) == (0, "")
    said = json.loads(answer.stdout)
    assert said["bytes"] == file.stat().st_size
    assert said["check"]["images"] == {"random": 264, "pool": 243}
    batches = {f"b{size}": images(spec, size) for size in BATCHES}
    metadata, taken = answers_alone(file, kind, batches)
    for name, batch in batches.items():
        with torch.inference_mode():
            expected = model(batch).numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(taken[name], expected, rtol=1e-4, atol=1e-5)
    assert metadata == said["metadata"]
    assert json.loads(metadata["class_names"]) == NAMES
    assert json.loads(metadata["input_shape"]) == ["N", spec.channels, spec.image_size, spec.image_size]
    assert metadata["input"].startswith("images: float32 (N, ")
    assert sorted(path.name for path in folder.glob("*model*")) == ["model.out"]


def own_spec(name: str, directory: RunDirectory) -> nn.Module:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return give_model(directory, ModelSpec(f"{PACKAGE}:{name}", num_classes=10, channels=1, image_size=8))
    finally:
        sys.path.remove(str(Path.cwd()))
        sys.modules.pop(PACKAGE)


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_export__a_model_of_ones_own_is_named_again(
    kind: str, digits: DigitsRun, folder: Path, dm2at: Dm2at
) -> None:
    model = own_spec("own", digits.directory)
    arguments = ("export", digits.directory.uri, "-o", "own", "--format", kind)

    refused = dm2at(*arguments)
    assert refused.code == 2
    assert f"give --model {PACKAGE}:own if you trust that code" in refused.stderr
    assert PACKAGE not in sys.modules
    os.chdir(folder)  # From where nothing is to be imported, the command goes away.

    assert dm2at(*arguments, "--model", f"{PACKAGE}:own").code == 0
    batch = torch.rand(5, 1, 8, 8)
    _, taken = answers_alone(folder / "own", kind, {"batch": batch})
    np.testing.assert_allclose(taken["batch"], model(batch).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_export__a_model_bound_to_its_batch_leaves_what_was_there(
    kind: str, digits: DigitsRun, folder: Path, dm2at: Dm2at
) -> None:
    model = own_spec("pairs", digits.directory)
    (folder / "pairs").write_bytes(b"an older file")
    arguments = ("export", digits.directory.uri, "-o", "pairs", "--format", kind)
    arguments += ("--model", f"{PACKAGE}:pairs")

    refused = dm2at(*arguments)
    assert refused.code == 2
    assert "try --no-dynamic-batch" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (folder / "pairs").read_bytes() == b"an older file"
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []

    done = dm2at(*arguments, "--no-dynamic-batch", "--batch-size", 2)
    assert done.code == 0, done.stderr
    assert "batches of 2" in done.stdout
    batch = torch.rand(2, 1, 8, 8)
    metadata, taken = answers_alone(folder / "pairs", kind, {"batch": batch})
    assert json.loads(metadata["input_shape"]) == [2, 1, 8, 8]
    np.testing.assert_allclose(taken["batch"], model(batch).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("share", "passes"), [(5e-6, True), (3e-4, False), (float("nan"), False)])
def test_export__a_file_that_answers_otherwise_is_not_kept(
    share: float, passes: bool, digits: DigitsRun, folder: Path, dm2at: Dm2at, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.jit.load

    def load_another(*args: Any, **options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        module = load(*args, **options)
        return lambda x: module(x) * (1 + share * (len(x) == 7))

    monkeypatch.setattr(export_module.torch.jit, "load", load_another)
    answer = dm2at("export", digits.directory.uri, "-o", "file", "--format", "torchscript")
    assert answer.code == (0 if passes else 2)
    assert ("answers otherwise than the model" in answer.stderr) == (not passes)
    assert [path.name for path in folder.iterdir() if path.suffix != ".py"] == ["file"] * passes


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_export__onnx_without_its_packages(
    package: str, digits: DigitsRun, dm2at: Dm2at, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(package, monkeypatch)
    answer = dm2at("export", digits.directory.uri, "-o", "file", "--format", "onnx")
    expected = f"--format onnx: the package {package} is not installed; "
    assert answer.stderr == expected + "install the extra: pip install 'dm2at-ray[export]'\n"
    assert answer.code == 2


def test_export__without_onnxruntime_onnx_itself_runs_the_file(
    digits: DigitsRun, dm2at: Dm2at, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("onnxruntime", monkeypatch)
    answer = dm2at("export", digits.directory.uri, "-o", "file", "--format", "onnx")
    assert answer.code == 0, answer.stderr
    assert "(onnxruntime is not installed), batches of 1, 7\n" in answer.stdout


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == package else find(name, *args)
    )


def test_export__says_that_the_pool_is_gone(digits: DigitsRun, dm2at: Dm2at) -> None:
    digits.directory.files.delete("pool")
    answer = dm2at("export", digits.directory.uri, "-o", "file", "--format", "torchscript")
    assert answer.code == 0, answer.stderr
    assert "264 random images: logits differ by at most 0 " in answer.stdout
    assert "not compared on images of the pool: pool manifest" in answer.stdout


def test_export__takes_the_round_that_is_asked_for(digits: DigitsRun, folder: Path, dm2at: Dm2at) -> None:
    arguments = ("export", digits.directory.uri, "-o", "file", "--format", "torchscript")
    assert dm2at(*arguments, "--round", 0).code == 0
    batch = torch.rand(3, 1, 8, 8)
    metadata, taken = answers_alone(folder / "file", "torchscript", {"batch": batch})
    assert metadata["round"] == "0"
    model = digits.context(0).trained_model()
    np.testing.assert_allclose(taken["batch"], model(batch).detach().numpy(), rtol=1e-4, atol=1e-5)

    answer = dm2at(*arguments, "--round", 5)
    assert answer.stderr.endswith("round 5 is not committed; choose one of 0, 1\n")


@pytest.mark.parametrize(
    ("output", "said"), [("no/where", "no folder "), (".", "a folder; give a file in it")]
)
def test_export__nowhere_to_write(output: str, said: str, digits: DigitsRun, dm2at: Dm2at) -> None:
    answer = dm2at("export", digits.directory.uri, "-o", output, "--format", "torchscript")
    assert answer.code == 2
    assert said in answer.stderr

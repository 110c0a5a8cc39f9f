"""The command `dm2at bench train`; what it times is not asserted, only what it says about it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dm2at_ray.bench import train_study as module
from dm2at_ray.bench.images import load_images
from dm2at_ray.bench.train_settings import ON_GPU, Speed, TrainBenchSettings
from dm2at_ray.bench.train_study import labeled_set

Answer = tuple[int, str, str]

TINY = ["--image-size", 8, "--batch-size", 16, "--seconds", 0.01, "--turns", 3, "--threads", 1]


@pytest.fixture(autouse=True)
def _digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))


def test_train__json_of_tiny_turns(dm2at: Callable[..., Answer]) -> None:
    code, stdout, stderr = dm2at("bench", "train", *TINY, "--defaults", "--json")
    found = json.loads(stdout)
    assert code == 0
    loops = ["clean", "textbook_fgsm", "ours", "ours_default"]
    assert list(found["turns"]) == loops
    for loop in loops:
        assert len(found["turns"][loop]) == 3
        assert found[loop] == statistics.median(found["turns"][loop]) > 0
        assert 0 < found["loss"][loop] < 10
    assert found["time_vs_textbook"] == pytest.approx(found["textbook_fgsm"] / found["ours"])
    assert found["fraction_of_limit"] == pytest.approx(2 * found["ours"] / found["clean"])
    assert found["images"] == "scikit-learn digits"
    assert found["machine"]["cores"] >= 1
    assert found["settings"]["model"] == "small_cnn"
    assert found["settings"]["precision"] == "float32"
    assert "turn 3 of 3" in stderr


def test_train__table(dm2at: Callable[..., Answer]) -> None:
    code, stdout, _ = dm2at("bench", "train", *TINY, "--precision", "bf16", "--channels", 3)
    assert code == 0
    assert re.search(r"clean training +[\d,]+ +[\d,]+ +[\d,]+ *\n", stdout)
    assert re.search(r"textbook FGSM +[\d,]+ +[\d,]+ +[\d,]+ +1\.000 +\d\.\d{3}", stdout)
    assert re.search(r"ours, the same attack( +[\d,]+){3}( +\d+\.\d{3}){2}", stdout)
    assert "default attack" not in stdout
    assert "small_cnn on scikit-learn digits, scaled to 8 x 8 x 3, batches of 16" in stdout
    assert "clean and ours: bf16; textbook: float32" in stdout


WRONG = {
    "model": (["--model", "small_cmn"], r"model 'small_cmn' is unknown; did you mean .*"),
    "batch": (["--batch-size", "1"], r"batch_size=1 must be at least 2"),
    "turns": (["--turns", "0"], r"turns=0 must be at least 1"),
    "seconds": (["--seconds", "-1"], r"seconds=-1\.0 must be above 0"),
    "precision": (["--precision", "fp8"], r"precision='fp8' is unknown; use one of: float32, bf16"),
    "device": (["--device", "gpu"], r"device='gpu' cannot be used \(.*\); use cpu"),
    "images": (["--images", "."], r"images: .*"),
}


@pytest.mark.parametrize(("options", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_train__refuses_in_one_line(
    options: list[str],
    pattern: str,
    dm2at: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = dm2at("bench", "train", "--threads", 1, *options)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(pattern + r"\n", stderr), stderr


def test_train__a_loss_that_is_no_number_is_no_figure(
    dm2at: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.PlainLoop, "last_loss", lambda loop: float("nan"))
    code, stdout, stderr = dm2at("bench", "train", *TINY)
    assert (code, stdout) == (2, "")
    assert stderr.endswith("the loss of clean became nan: its time means nothing; take another model\n")


def test_labeled_set__whole_batches_of_scaled_images() -> None:
    images = load_images()
    speed = Speed(model="small_cnn", image_size=12, channels=3, batch_size=1000, precision="float32")
    labeled = labeled_set(images, speed)
    count = len(images.pixels)
    assert labeled.images.shape == (8000, 12, 12, 3)
    assert (labeled.images[..., 0] == labeled.images[..., 2]).all()
    assert (labeled.labels[:count] == images.labels).all()
    assert (labeled.images[count] == labeled.images[0]).all()
    native = Speed(model="small_cnn", image_size=8, channels=1, batch_size=16, precision="float32")
    assert torch.from_numpy(labeled_set(images, native).images[:count, ..., 0]).equal(images.pixels)


def test_settings__the_device_chooses_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainBenchSettings(channels=3).speed() == Speed(
        model="small_cnn", image_size=28, channels=3, batch_size=128, precision="float32"
    )
    monkeypatch.setattr("dm2at_ray.bench.train_settings.check_device", lambda device: None)
    assert TrainBenchSettings(device="cuda:1").speed() == ON_GPU


def test_module__runs_alone_without_ray_and_pydantic() -> None:
    """As on a machine that has neither: importing either of them breaks."""
    code = (
        "import sys; sys.modules.update(ray=None, pydantic=None); sys.argv[0] = 'train'; import runpy; "
        "runpy.run_module('dm2at_ray.bench.train', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, TINY), "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ours"] > 0
    refused = subprocess.run(
        [sys.executable, "-c", code, "--turns", "0"], capture_output=True, text=True, timeout=120
    )
    assert (refused.returncode, refused.stderr) == (2, "turns=0 must be at least 1\n")

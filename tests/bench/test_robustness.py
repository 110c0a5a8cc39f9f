"""The command `dm2at bench robustness`: digits in Fashion-MNIST's format, really trained and attacked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from dm2at_ray.bench import robustness_study
from dm2at_ray.training import lookout

Answer = tuple[int, str, str]

TEST = 397
"""Test images; 1,400 to train on."""

BRIEF = ["--threads", 1, "--labels", 60, "--test", 40, "--epochs", 1, "--set", "min_steps=0"]


@pytest.fixture
def study(dm2at: Callable[..., Answer], idx_images: Path) -> Callable[..., Answer]:
    """`study("--jobs", 2)`: the command on these images."""
    return lambda *arguments: dm2at("bench", "robustness", "--images", idx_images, *arguments)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.endswith("seconds")}


@pytest.fixture(scope="module")
def trained(idx_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """A real comparison with two seeds and two jobs: its JSON, its stderr and its file of rows.

    Epsilon is a fifth of the range, at which clean training leaves nothing under PGD.
    """
    out = tmp_path_factory.mktemp("out") / "rows.jsonl"
    command = [
        *(sys.executable, "-m", "dm2at_ray.bench.robustness", "--images", idx_images, "--json", "--out", out),
        *("--jobs", 2, "--threads", 1, "--seeds", 2, "--labels", 500, "--epochs", 6, "--epsilon", "51/255"),
        *("--set", "min_steps=0", "--recipe", "clean", "--recipe", "pgd10", "--recipe", "rs_fgsm"),
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr, out


def test_robustness__rows_of_a_real_comparison(trained: tuple[dict[str, Any], str, Path]) -> None:
    report, stderr, out = trained
    rows = report["rows"]
    names = [(recipe, seed) for recipe in ("clean", "pgd10", "rs_fgsm") for seed in (0, 1)]
    assert [(row["recipe"], row["seed"]) for row in rows] == names
    by_name = {(row["recipe"], row["seed"]): row for row in rows}
    assert lines(stderr) == lines(out.read_text())
    assert sorted(lines(stderr), key=str) == sorted(rows, key=str)
    for row in rows:
        assert row["error"] is None
        assert row["pgd"] <= row["fgsm"] <= row["clean"]
        for attack in ("clean", "fgsm", "pgd"):
            right = round(row[attack] * TEST)
            wilson = binomtest(right, TEST).proportion_ci(0.95, method="wilson")
            assert row["intervals"][attack] == pytest.approx([wilson.low, wilson.high])
        assert row["epochs"] == 6
        assert row["outcome"] == "last"
        assert row["stopped"] is False
        assert row["seconds"] > 0 < row["evaluation_seconds"]
        assert row["settings"]["training"]["epsilon"] == 0.2
        assert row["settings"]["images"] == "Fashion-MNIST"
    assert by_name["clean", 0]["held_out"] == 0
    assert by_name["clean", 0]["looks"] == []
    looks = by_name["pgd10", 0]["looks"]
    assert looks[-1]["epoch"] == 6
    assert 0 < looks[-1]["images"] == by_name["pgd10", 0]["held_out"] < 100
    assert 0 <= looks[-1]["pgd"] <= looks[-1]["clean"] <= 1
    for seed in (0, 1):
        robust = min(by_name["pgd10", seed]["pgd"], by_name["rs_fgsm", seed]["pgd"])
        assert robust > by_name["clean", seed]["pgd"] + 0.2


def test_robustness__summary_of_a_real_comparison(trained: tuple[dict[str, Any], str, Path]) -> None:
    report, _, _ = trained
    pgd = {
        name: [row["pgd"] for row in report["rows"] if row["recipe"] == name] for name in ("clean", "pgd10")
    }
    clean, reference, rs_fgsm = report["summary"]
    assert [each["recipe"] for each in report["summary"]] == ["clean", "pgd10", "rs_fgsm"]
    assert clean["pgd"] == pytest.approx(np.mean(pgd["clean"]))
    assert clean["deviation"]["pgd"] == pytest.approx(np.std(pgd["clean"], ddof=1))
    assert clean["pgd_points"] == pytest.approx(100 * (np.mean(pgd["clean"]) - np.mean(pgd["pgd10"])))
    assert clean["holds"] is False
    assert (reference["clean_points"], reference["pgd_points"], reference["holds"]) == (0, 0, True)
    assert rs_fgsm["seeds"] == [0, 1]
    assert rs_fgsm["explanation"].startswith("FGSM of 1.25 epsilon")
    assert report["settings"]["jobs"] == 2
    assert report["settings"]["threads"] == 1
    assert report["machine"]["cores"] >= 1
    assert report["left"] == 0


def test_robustness__a_worker_finds_what_the_command_itself_finds(
    trained: tuple[dict[str, Any], str, Path], study: Callable[..., Answer]
) -> None:
    options = ["--threads", 1, "--labels", 500, "--epochs", 6, "--epsilon", "51/255", "--set", "min_steps=0"]
    code, stdout, _ = study(*options, "--seed", 1, "--recipe", "rs_fgsm", "--json")
    assert code == 0
    in_worker = next(row for row in trained[0]["rows"] if (row["recipe"], row["seed"]) == ("rs_fgsm", 1))
    assert without_time(json.loads(stdout)["rows"][0]) == without_time(in_worker)


def test_robustness__a_killed_study_goes_on_where_it_was(
    study: Callable[..., Answer], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    options = [*BRIEF, "--recipe", "clean", "--recipe", "rs_fgsm", "--out", out, "--json"]
    first = json.loads(study(*options, "--seeds", 1)[1])
    whole = out.read_text()
    out.write_text(whole[:-40])
    _, stdout, stderr = study(*options, "--seeds", 2)
    report = json.loads(stdout)
    # In each seed the longest first: the clean training was the last, and so the one that was cut off.
    assert [(row["recipe"], row["seed"]) for row in lines(stderr)] == [
        ("clean", 0),
        ("rs_fgsm", 1),
        ("clean", 1),
    ]
    assert report["rows"][2] == first["rows"][1]
    assert without_time(report["rows"][0]) == without_time(first["rows"][0])
    assert len(lines(out.read_text())) == 4
    again = study(*options, "--seeds", 2)
    assert (again[0], again[2], json.loads(again[1])["rows"]) == (0, "", report["rows"])
    other = study(*options, "--seeds", 1, "--clean-weight", 0.25)
    assert len(lines(other[2])) == 1, "of a clean training its recipe has the last word"
    assert len(lines(out.read_text())) == 5


def test_robustness__collapse_is_seen(study: Callable[..., Answer]) -> None:
    """Plain FGSM with large steps trains a model that withstands its own attack, and nothing else."""
    options = ["--threads", 1, "--labels", 600, "--seeds", 1, "--epochs", 20, "--set", "min_steps=0"]
    code, stdout, stderr = study(*options, "--epsilon", 0.3, "--recipe", "fgsm_joint_warn")
    (row,) = lines(stderr)
    assert code == 0
    seen = [look for look in row["looks"] if look["collapse"]]
    assert seen[0]["collapse"] == "overfitting"
    assert seen[0]["answer"] == "warn"
    assert row["pgd"] < 0.1 < 0.3 < row["fgsm"]
    assert (row["outcome"], row["last"]) == ("last", None)
    assert re.search(r"\nfgsm_joint_warn( +\d+\.\d){3} +1 of 1 +\d+", stdout)
    assert f"fgsm_joint_warn: collapse first seen after epoch {seen[0]['epoch']}\n" in stdout


def test_robustness__what_the_last_weights_were_worth(
    study: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best look's weights are the result; beside it stands what the same training gives unanswered."""
    looks = iter(2 * [(0.9, 0.6, 0.5), (0.9, 0.7, 0.0)])
    monkeypatch.setattr(lookout, "measure", lambda *_, **__: next(looks))
    options = ["--threads", 1, "--labels", 600, "--seeds", 1, "--epochs", 6, "--set", "min_steps=0"]
    recipes = ["--recipe", "fgsm_joint", "--recipe", "fgsm_joint_warn", "--set", "schedule=constant"]
    code, stdout, stderr = study(*options, *recipes)
    restored, warned = lines(stderr)
    assert code == 0
    assert [look["collapse"] for look in restored["looks"]] == [None, "overfitting"]
    assert (restored["outcome"], warned["outcome"]) == ("best", "last")
    accuracy = {attack: warned[attack] for attack in ("clean", "fgsm", "pgd")}
    assert restored["last"] == accuracy
    assert {attack: restored[attack] for attack in accuracy} != accuracy
    assert warned["last"] is None
    assert (
        "fgsm_joint: collapse first seen after epoch 6; 1 of 1 went back to their best weights, where the "
        f"last ones have {accuracy['pgd']:.1%} PGD accuracy\n"
    ) in stdout


def test_robustness__limit_leaves_trainings_out(
    study: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 9.0])
    monkeypatch.setattr(robustness_study.time, "monotonic", lambda: next(clock))
    code, stdout, stderr = study(*BRIEF, "--seeds", 3, "--recipe", "clean", "--limit", 5)
    assert code == 0
    assert [row["seed"] for row in lines(stderr)] == [0]
    assert "2 trainings were left out, the time being over" in stdout


def test_robustness__table(study: Callable[..., Answer]) -> None:
    code, stdout, _ = study(*BRIEF, "--seeds", 2, "--recipe", "clean", "--recipe", "pgd10")
    assert code == 0
    share = r" +\d+\.\d±\d+\.\d"
    assert re.search(rf"\nclean{share * 3}( +[+-]\d+\.\d){{2}} +0 of 2 +\d+ *\n", stdout)
    assert re.search(rf"\npgd10{share * 3}( +\+0\.0){{2}} +0 of 2 +\d+ *\n", stdout)
    assert "small_cnn on 60 labels of Fashion-MNIST, others for each seed\n" in stdout
    assert "\nclean: clean images only\n" in stdout


def test_robustness__a_training_that_fails_is_a_row(study: Callable[..., Answer], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    options = [*BRIEF, "--epochs", 4, "--seeds", 1, "--recipe", "clean", "--recipe", "pgd10", "--out", out]
    code, stdout, _ = study(*options, "--set", "learning_rate=1e30", "--set", "schedule=constant")
    assert code == 1
    assert re.search(r"pgd10, seed 0: (loss is|the weights are) not finite in round 0, epoch \d+", stdout)
    row = lines(out.read_text())[0]
    assert row["clean"] is None
    assert row["settings"]["training"]["learning_rate"] == 1e30
    assert len(lines(study(*options, "--set", "learning_rate=1e30", "--set", "schedule=constant")[2])) == 2


WRONG = {
    "recipe": (
        ["--recipe", "fgsm_jiont"],
        r"recipe='fgsm_jiont' is unknown; use one of: clean, fgsm_paper, .*",
    ),
    "answer": (
        ["--recipe", "clean_fail"],
        r"recipe='clean_fail' is unknown; .*_warn, _restore, _switch behind it",
    ),
    "twice": (["--recipe", "clean", "--recipe", "clean"], r"recipe='clean' is given twice; leave one out"),
    "seeds": (["--seeds", "0"], r"seeds=0 must be at least 1"),
    "seed": (["--seed", "-1"], r"seed=-1 must be at least 0"),
    "both": (["--seeds", "2", "--seed", "1"], r"seeds=2 has no effect with --seed; leave one out"),
    "labels": (["--labels", "1401"], r"labels=1401: Fashion-MNIST has 1400; ask for no more"),
    "test": (["--labels", "60", "--test", "398"], r"test=398: Fashion-MNIST has 397; ask for no more"),
    "jobs": (["--jobs", "0"], r"jobs=0 must be at least 1"),
    "limit": (["--limit", "0"], r"limit=0\.0 must be above 0"),
    "epsilon": (["--epsilon", "8"], r"epsilon is 8\.0: must be between 0 and 1 \(pixels are in \[0, 1\]\)"),
    "field": (["--set", "ephocs=3"], r"set='ephocs' is unknown; use one of: epochs, .*"),
    "type": (["--set", "ema=much"], r"set: one of ema='much' is of the wrong type \(.*\)"),
    "together": (["--set", "compile=true"], r"grad_align is 0\.2: must be 0 where compile is true, .*"),
    "model": (["--labels", "60", "--model", "small_cmn"], r"model 'small_cmn' is unknown; did you mean .*"),
    "device": (["--device", "gpu"], r"device='gpu' cannot be used \(.*\); use cpu"),
    "out": (["--out", "nowhere/rows.jsonl"], r"out=nowhere/rows\.jsonl: no such folder; make it first"),
}


@pytest.mark.parametrize(("options", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_robustness__refuses_in_one_line(
    options: list[str],
    pattern: str,
    study: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = study("--threads", 1, *options)
    assert (code, stdout) == (2, "")
    assert re.fullmatch(pattern + r"\n", stderr), stderr


@pytest.mark.parametrize("text", ["3\n", '{"recipe": "clean"}\n', "no JSON\n"])
def test_robustness__refuses_a_file_of_something_else(
    text: str, study: Callable[..., Answer], tmp_path: Path
) -> None:
    out = tmp_path / "notes.txt"
    out.write_text(text)
    code, _, stderr = study(*BRIEF, "--out", out)
    assert (code, stderr) == (2, f"out={out}: line 1 is no row of this command; name another file\n")
    assert out.read_text() == text


@pytest.mark.parametrize("option", ["--epsilon=8/0", "--epsilon=much", "--set=epochs"])
def test_robustness__refuses_as_argparse_does(option: str, study: Callable[..., Answer]) -> None:
    code, _, stderr = study(option)
    assert code == 2
    assert re.search(r"error: argument --(epsilon|set): '.*' is (no number|not FIELD=VALUE)\n", stderr)


def test_robustness__digits_where_there_is_no_fashion_mnist(
    dm2at: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    code, stdout, _ = dm2at("bench", "robustness", *BRIEF, "--seeds", 1, "--recipe", "clean")
    assert code == 0
    assert "60 labels of scikit-learn digits" in stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_robustness__on_a_gpu(study: Callable[..., Answer]) -> None:
    options = [*BRIEF, "--epochs", 3, "--device", "cuda", "--jobs", 2, "--seeds", 1, "--json"]
    code, stdout, stderr = study(*options)
    report = json.loads(stdout)
    assert code == 0, stderr
    assert report["machine"]["gpu"]
    assert [each["seeds"] for each in report["summary"]] == 11 * [[0]]


WITHOUT = (
    "import sys; sys.modules.update(ray=None, pydantic=None, numba=None, typer=None); sys.argv[0] = 'study'; "
    "import runpy; runpy.run_module('dm2at_ray.bench.robustness', run_name='__main__')"
)


def test_module__runs_alone_without_what_a_gpu_machine_lacks(idx_images: Path) -> None:
    command = [
        sys.executable,
        "-c",
        WITHOUT,
        "--images",
        idx_images,
        *BRIEF,
        "--seeds",
        1,
        "--recipe",
        "pgd10",
    ]
    done = subprocess.run([*map(str, command), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["rows"][0]["pgd"] <= 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_module__leaves_no_worker_behind(number: signal.Signals, idx_images: Path) -> None:
    options = ["--jobs", "2", "--threads", "1", "--epochs", "100000", "--labels", "1400"]
    command = [sys.executable, "-m", "dm2at_ray.bench.robustness", "--images", str(idx_images), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    try:
        workers = eventually(lambda: children(process.pid) if len(children(process.pid)) == 2 else [])
        process.send_signal(number)
        assert process.wait(60) == (143 if number == signal.SIGTERM else -number)
        eventually(lambda: not any(map(is_running, workers)))
    finally:
        process.kill()
        process.wait()
        for worker in filter(is_running, workers):
            os.kill(worker, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def eventually(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)
    return found

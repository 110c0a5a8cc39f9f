"""`dm2at predict` of a finished run, on the session's cluster."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dm2at_ray.stages.prediction_files import PredictionFiles
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.lease import LEASE_FILE

from .commands import Command, wait_for

SECONDS = 240
EVIL = """
from pathlib import Path
Path({trace!r}).touch()
def factory(num_classes, in_channels, image_size):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""


def parts_of(out: Path) -> dict[str, bytes]:
    """The Parquet files by their names."""
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


def predict(
    *arguments: object, folder: Path, address: str, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    command = Command("predict", *arguments, "--json", folder=folder, address=address, variables=variables)
    with command:
        assert command.end(SECONDS) == 0, command.stderr
        answer: dict[str, Any] = json.loads(command.stdout)
        return answer


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a Parquet file of PNGs."""
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "digits.parquet"
    pq.write_table(pa.table({"image": [png(image) for image in images], "label": digits.target}), path)
    return path


@pytest.mark.ray
def test_predict__held_out_digits_as_the_round_measured_them(
    reference: Path, ray_address: str, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    arguments = ("predict", reference, "digits", "out", "--split", "test")
    with Command(*arguments, folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr
        assert command.stderr == ""
        lines = command.stdout.splitlines()
    metrics = RunDirectory(str(reference)).round(1).metrics()
    said = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert said["complete"]
    assert said["accuracy"]["top1"] == metrics["accuracy"]["clean"]
    assert said["accuracy_by_class"] == metrics["accuracy_by_class"]["clean"]
    assert said["labeled"] == metrics["evaluated"] == 344
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    right = np.mean(np.array(table["predicted_label"]) == load_digits().target[np.array(table["row"])])
    assert right == metrics["accuracy"]["clean"]
    assert lines[0].startswith("round 1  list       344 images in ")
    assert lines[1].startswith("round 1  predict    344 images in ")
    assert lines[2].split() == ["class", "predicted", "labeled", "right"]
    assert lines[-2].startswith(f"accuracy {100 * right:.1f} % (")
    assert lines[-1] == f"written to {tmp_path}/out: 1 parts, 1 of them now"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "part-00000.parquet",
        "predict.json",
    ]
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


@pytest.mark.ray
def test_predict__same_files_whatever_the_actors(
    reference: Path, pictures: Path, ray_address: str, tmp_path: Path
) -> None:
    options = ("--part-rows", 128, "--top", 2, "--all-probabilities")
    answers = []
    for actors, cpus in ((1, 1.0), (3, 0.25)):
        settings = ("--set", f"compute.actors={actors}", "--set", f"compute.cpus_per_actor={cpus}")
        out = tmp_path / str(actors)
        answers.append(
            predict(reference, pictures, out, *options, *settings, folder=tmp_path, address=ray_address)
        )
    files = parts_of(tmp_path / "1")
    assert len(files) == answers[0]["new_parts"] == 15
    assert parts_of(tmp_path / "3") == files
    assert answers[0]["accuracy"] == answers[1]["accuracy"]
    table = pa.concat_tables([pq.read_table(io.BytesIO(files[name])) for name in sorted(files)])
    assert table["row"].to_pylist() == list(range(1797))
    assert (
        np.mean(np.array(table["predicted_label"]) == load_digits().target) == answers[0]["accuracy"]["top1"]
    )

    again = predict(reference, pictures, tmp_path / "1", *options, folder=tmp_path, address=ray_address)
    assert again["new_parts"] == 0
    assert again["accuracy"] == answers[0]["accuracy"]
    with Command("predict", reference, pictures, "1", folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 2
        assert "begun with other arguments (top was 2, now 0; all_probabilities was true" in command.stderr
        assert command.stderr.count("\n") == 1
    assert parts_of(tmp_path / "1") == files


@pytest.mark.ray
def test_predict__refuses_a_second_one_at_once(reference: Path, ray_address: str, tmp_path: Path) -> None:
    files = PredictionFiles(str(tmp_path / "out"))
    with (
        files.lease().held(),
        Command("predict", reference, "digits", "out", folder=tmp_path, address=ray_address) as second,
    ):
        assert second.end(SECONDS) == 2
        assert re.fullmatch(
            rf"OUT {tmp_path}/out: process {os.getpid()} on .* predicts into it \(seen \d+ s ago\); wait for "
            r"it, end it, or give another place\n",
            second.stderr,
        )
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LEASE_FILE]


@pytest.mark.ray
def test_predict__goes_on_after_a_kill(
    reference: Path, pictures: Path, ray_address: str, tmp_path: Path
) -> None:
    arguments = (reference, pictures, "out", "--part-rows", 64, "--set", "compute.actors=1")
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    predict(*arguments, folder=undisturbed, address=ray_address)
    expected = parts_of(undisturbed / "out")
    assert len(expected) == 29

    out = tmp_path / "out"
    with Command("predict", *arguments, folder=tmp_path, address=ray_address) as command:
        wait_for("a few parts", lambda: len(list(out.glob("part-*.parquet"))) >= 3, SECONDS)
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait(timeout=10)
    assert (out / LEASE_FILE).exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 3 <= len(kept) < 29
    assert not json.loads((out / "predict.json").read_text())["complete"]

    answer = predict(*arguments, folder=tmp_path, address=ray_address)

    assert parts_of(out) == expected
    # Ray may have let the killed call's last task end.
    assert 0 < answer["new_parts"] <= 29 - len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert answer["listing"]["images"] == 1797
    assert not list(out.glob(".*"))


@pytest.mark.ray
def test_predict__broken_images_and_classes_of_others(
    reference: Path, ray_address: str, tmp_path: Path
) -> None:
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    folder = tmp_path / "images"
    for name in ("7", "8", "zebra"):
        (folder / name).mkdir(parents=True)
    row = int(np.flatnonzero(digits.target == 7)[0])
    (folder / "7" / "a.png").write_bytes(png(images[row]))
    (folder / "7" / "b.png").write_bytes(png(images[row])[:-12])
    (folder / "8" / "c.png").write_bytes(png(np.dstack([images[row]] * 3)))
    (folder / "zebra" / "d.jpg").write_text("this is no picture")

    with Command("predict", reference, "images", "out", folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr
        lines = command.stdout.splitlines()

    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [(Path(r["uri"]).name, r["status"], r["label"]) for r in rows] == [
        ("a.png", "ok", 7),
        ("b.png", "rejected", 7),
        ("c.png", "ok", 8),
        ("d.jpg", "rejected", None),
    ]
    assert rows[0]["predicted_label"] == rows[2]["predicted_label"]
    assert rows[0]["probability"] == pytest.approx(rows[2]["probability"], abs=1e-5)
    assert rows[1]["reason"] == "truncated PNG"
    assert [rows[1][name] for name in ("predicted", "predicted_label", "probability")] == [None] * 3
    assert f"images that could not be read: 2, such as {folder}/7/b.png row 0 (truncated PNG)" in lines
    assert "images whose label is none of the model's classes: 1" in lines


@pytest.mark.ray
@pytest.mark.parametrize("trusted", [False, True])
def test_predict__runs_a_strangers_model_only_where_the_user_names_it(
    trusted: bool, reference: Path, ray_address: str, tmp_path: Path
) -> None:
    stranger, trace = tmp_path / "stranger", tmp_path / "executed"
    stranger_run(reference, stranger, trace)
    options = ("--model", "evil:factory") if trusted else ()
    arguments = ("predict", ".", "digits", tmp_path / "out", *options)
    with Command(*arguments, folder=stranger, address=ray_address) as command:
        code = command.end(SECONDS)
    assert trace.exists() == trusted
    if not trusted:
        assert code == 2
        assert command.stderr == (
            f"run directory {stranger}: its model is evil:factory, code that is not part of this package; "
            "give --model evil:factory if you trust that code\n"
        )
        assert not (tmp_path / "out").exists()


def stranger_run(reference: Path, directory: Path, trace: Path) -> None:
    """A run that names code in its own directory as its model."""
    shutil.copytree(reference, directory)
    (directory / "evil.py").write_text(EVIL.format(trace=str(trace)))
    for model in directory.glob("rounds/*/model/model.json"):
        content = json.loads(model.read_text())
        content["spec"]["name"] = "evil:factory"
        model.write_text(json.dumps(content))


@pytest.mark.ray
def test_predict__a_source_that_is_not_there_leaves_the_place_free(
    reference: Path, pictures: Path, ray_address: str, tmp_path: Path
) -> None:
    arguments = ("predict", reference, f"parquet:{pictures}.gone", "out")
    with Command(*arguments, folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 2
        assert command.stderr.startswith(f"SOURCE '{pictures}.gone': no such file or folder")
    with Command("predict", reference, pictures, "out", folder=tmp_path, address=ray_address) as command:
        assert command.end(SECONDS) == 0, command.stderr

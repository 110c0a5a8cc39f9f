"""Models streamed in bounded memory, and reports made once a round."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from dm2at_ray.models import ModelSpec
from dm2at_ray.service import downloads as module
from dm2at_ray.service.downloads import Reports, model_spec, open_model

from ..stages.digits_run import MODEL, DigitsRun, make_digits_run
from .conftest import refused


@pytest.fixture
def digits_run(tmp_path: Path) -> DigitsRun:
    return make_digits_run(str(tmp_path / "runs/digits"))


@pytest.fixture
def open_reports(tmp_path: Path) -> Iterator[Callable[..., Reports]]:
    opened: list[Reports] = []

    def open_(*roots: Path | str) -> Reports:
        opened.append(Reports([str(root) for root in roots], tmp_path / f"cache-{len(opened)}"))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


def test_open_model__is_the_weights_of_its_round(digits_run: DigitsRun) -> None:
    found = [open_model(digits_run.directory, index) for index in (0, 1)]
    for index, model in enumerate(found):
        data = b"".join(model.chunks())
        assert len(data) == model.size
        assert model.name == f"digits-round-{index}.safetensors"
        spec = model_spec(digits_run.directory, index)
        assert spec["class_names"] == digits_run.directory.class_names()
        network = ModelSpec(**spec["spec"]).build()
        network.load_state_dict(safetensors.torch.load(data))
        assert ModelSpec(**spec["spec"]) == MODEL
    assert found[0].etag != found[1].etag
    assert open_model(digits_run.directory, 0).etag == found[0].etag


def test_open_model__of_what_is_not_final_or_not_there(digits_run: DigitsRun, tmp_path: Path) -> None:
    run = digits_run.directory
    with refused("unknown-round"):
        open_model(run, 7)
    run.round(1).files.delete("COMMITTED")
    for call in (open_model, model_spec):
        with refused("not-there"):
            call(run, 1)
    weights = Path(run.uri) / "rounds/0000/model/model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with refused("outside-roots"):
        open_model(run, 0)


STREAM = """
import resource, sys
from dm2at_ray.service.downloads import open_model
from dm2at_ray.store import RunDirectory
run = RunDirectory(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = sum(map(len, open_model(run, 0).chunks()))
before = peak()
large = sum(map(len, open_model(run, 1).chunks()))
print(small, large, peak() - before)
"""


def test_open_model__of_200_megabytes_takes_a_few(digits_run: DigitsRun) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [200 << 20], "data_offsets": [0, 200 << 20]}}).encode()
    path = Path(digits_run.directory.uri) / "rounds/0001/model/model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (200 << 20))
    command = [sys.executable, "-c", STREAM, digits_run.directory.uri]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, large, kilobytes = map(int, done.stdout.split())
    assert large == path.stat().st_size
    assert kilobytes < 20_000


def test_report__is_made_once_until_a_round_is_added(
    digits_run: DigitsRun, open_reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = module.make_report

    def noted(*arguments: Any) -> str:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(module, "make_report", noted)
    reports, run = open_reports(), digits_run.directory
    with ThreadPoolExecutor(20) as people:
        found = list(people.map(lambda _: reports.report(run), range(20)))
    assert len(made) == 1
    assert len(set(found)) == 1
    assert found[0].media_type.startswith("text/html")
    assert found[0].data.count(b'alt="adversarial twin of sample ') == 12
    for accuracy in (0.25, 0.5):
        evaluation = {"attack": "clean", "accuracy": accuracy, "accuracy_interval": [0.2, 0.6]}
        run.round(1).write_evaluation("clean", {**evaluation, "images": 9, "settings": {}})
        assert f"<td>{accuracy:.1%}".replace("%", " %").encode() in reports.report(run).data
    run.round(1).files.delete("COMMITTED")
    assert reports.report(run).etag != found[0].etag
    assert len(made) == 4


def test_report__of_pictures_that_may_not_be_opened_has_none(
    digits_run: DigitsRun, open_reports: Callable[..., Reports], tmp_path: Path
) -> None:
    run = digits_run.directory
    data = run.config().data.model_copy(update={"source": "image_folder", "path": str(tmp_path / "photos")})
    run.write_config(run.config().model_copy(update={"data": data}))
    page = open_reports("/nowhere").report(run).data
    assert b"twin of sample" not in page
    assert b"Accuracy" in page


def test_report__of_a_final_round_whose_model_is_gone(
    digits_run: DigitsRun, open_reports: Callable[..., Reports]
) -> None:
    digits_run.directory.round(0).files.delete("model/model.json")
    with refused("not-there") as caught:
        open_reports().report(digits_run.directory)
    assert "a file of a final round is gone, restore it" in str(caught.value)
    assert "rounds/0000/model/model.json" in str(caught.value)


def test_report__of_a_run_without_a_committed_round(
    digits_run: DigitsRun, open_reports: Callable[..., Reports]
) -> None:
    for index in (0, 1):
        digits_run.directory.round(index).files.delete("COMMITTED")
    assert b"No round is committed yet" in open_reports().report(digits_run.directory).data

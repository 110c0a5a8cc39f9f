"""Prediction on the digits and on a folder, part by part in this process, against a plain loop."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, PoolError, RunError
from dm2at_ray.pool import SourceSpec, open_source
from dm2at_ray.prediction_source import open_labeled, spec_of, write_listing
from dm2at_ray.stages import predict as predict_module
from dm2at_ray.stages.context import StageContext
from dm2at_ray.stages.predict import Found, PredictionPlan, predict
from dm2at_ray.stages.prediction_files import PredictionFiles

from .digits_run import DigitsRun

ROWS = 512
NAMES = ("nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ARGUMENTS = {"round": 1, "top": 0}


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for Ray Data; pieces come in no particular order, so backwards."""

    def map_pieces(
        pieces: pa.Table, worker: Any, context: StageContext, *args: Any, **_: Any
    ) -> Iterator[pa.Table]:
        for row in reversed(range(len(pieces))):
            yield worker(context, *args)({"part": pieces["part"].slice(row, 1).to_numpy()})

    monkeypatch.setattr(predict_module, "map_pieces", map_pieces)
    monkeypatch.setattr(predict_module, "results", lambda parts: ((part, "node") for part in parts))


@pytest.fixture
def context(digits_run: DigitsRun) -> StageContext:
    """Round 1 of the run, its model fitted a little, so that it tells the classes apart."""
    context = replace(digits_run.context(1), batch_size=64)
    model = context.trained_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    x, y = digits()
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(64):
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    return context


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 8, 8) and labels (N,) from scikit-learn itself."""
    digits = load_digits()
    x = torch.from_numpy(np.rint(digits.images * 255 / 16) / 255).float()[:, None]
    return x, torch.from_numpy(digits.target)


def predicted(
    context: StageContext, out: Path, rows: int = ROWS, **plan: Any
) -> tuple[Found, list[pa.Table]]:
    files = PredictionFiles(str(out))
    files.begin(ARGUMENTS)
    source = open_source(context.source)
    listing = write_listing(files, source, None, rows, tuple(source.class_names or ()), lambda *_: None)
    told: list[tuple[int, int]] = []
    found = predict(
        context,
        PredictionPlan(str(out), NAMES, **plan),
        listing["parts"],
        listing["images"],
        lambda done, total, node=None: told.append((done, total)),
    )
    assert told[-1] == (listing["images"], listing["images"])
    return found, [pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))]


def test_predict__is_what_a_plain_loop_says(context: StageContext, tmp_path: Path) -> None:
    x, y = digits()
    with torch.inference_mode():
        probabilities = context.trained_model()(x).softmax(dim=1).numpy()
    best = probabilities.argmax(axis=1)
    right = best == y.numpy()
    assert 0.5 < right.mean() < 1

    found, parts = predicted(context, tmp_path / "out", top=3, all_probabilities=True)

    assert [part.num_rows for part in parts] == [512, 512, 512, 1797 - 3 * 512]
    table = pa.concat_tables(parts)
    assert table["row"].to_pylist() == list(range(1797))
    assert table["label"].to_pylist() == y.tolist()
    assert table["predicted_label"].to_pylist() == best.tolist()
    assert table["predicted"].to_pylist() == [NAMES[number] for number in best]
    np.testing.assert_allclose(table["probability"].to_numpy(), probabilities.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), probabilities, atol=1e-6)
    top = np.array(table["top_labels"].to_pylist())
    assert (top == np.argsort(-probabilities, axis=1)[:, :3]).mean() > 0.999
    assert table["top_predicted"][0].as_py() == [NAMES[number] for number in top[0]]
    np.testing.assert_allclose(
        np.array(table["top_probabilities"].to_pylist()), -np.sort(-probabilities, axis=1)[:, :3], atol=1e-6
    )
    assert set(table["status"].to_pylist()) == {"ok"}
    assert table["reason"].null_count == 1797
    measured = found.tally.accuracies()
    assert measured["accuracy"]["top1"] == pytest.approx(right.mean(), abs=1e-9)
    in_top = (top == y.numpy()[:, None]).any(axis=1)
    assert measured["accuracy"]["top3"] == pytest.approx(in_top.mean(), abs=1e-9)
    assert found.predicted.tolist() == np.bincount(best, minlength=10).tolist()
    assert (found.images, found.new_parts, found.rejected) == (1797, 4, 0)
    types = {"probability": pa.float32(), "predicted_label": pa.int64(), "row": pa.int64()}
    types["probabilities"] = pa.list_(pa.field("element", pa.float32()), 10)
    assert {name: table.schema.field(name).type for name in types} == types


def test_predict__takes_parts_that_are_there_as_they_are(context: StageContext, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, parts = predicted(context, out)
    (out / "part-00001.parquet").unlink()
    # Of other images: not what an earlier call left.
    pq.write_table(parts[0].slice(0, 500), out / "part-00000.parquet")
    changed = parts[2].set_column(5, "predicted", pa.array(["by hand"] * 512))
    pq.write_table(changed, out / "part-00002.parquet")

    again, after = predicted(context, out)

    assert again.new_parts == 2
    assert after[0].equals(parts[0])
    assert after[1].equals(parts[1])
    assert after[2]["predicted"].to_pylist() == ["by hand"] * 512
    assert again.tally.accuracies() == first.tally.accuracies()


def test_predict__does_not_depend_on_the_parts(context: StageContext, tmp_path: Path) -> None:
    _, parts = predicted(context, tmp_path / "one", all_probabilities=True)
    _, others = predicted(context, tmp_path / "other", rows=64, all_probabilities=True)
    assert len(others) == 29
    assert pa.concat_tables(parts).equals(pa.concat_tables(others))


def test_predict__images_that_cannot_be_read_have_no_prediction(
    context: StageContext, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    whole = io.BytesIO()
    Image.new("L", (9, 11), 200).save(whole, "PNG")
    for name, data in {"3/a.png": whole.getvalue(), "3/b.png": b"", "zebra/c.jpg": b"words"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    spec = SourceSpec("image_folder", str(folder), image_size=8, channels=1)
    files = PredictionFiles(str(tmp_path / "out"))
    files.begin(ARGUMENTS)
    listing = write_listing(files, open_source(spec), None, ROWS, tuple(map(str, range(10))), lambda *_: None)
    assert listing == {"images": 3, "parts": 1, "foreign_labels": 1}

    plan = PredictionPlan(str(tmp_path / "out"), NAMES, top=2, all_probabilities=True)
    found = predict(replace(context, source=spec), plan, 1, 3, lambda *_: None)

    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert [Path(uri).name for uri in table["uri"].to_pylist()] == ["a.png", "b.png", "c.jpg"]
    assert table["label"].to_pylist() == [3, 3, None]
    assert table["status"].to_pylist() == ["ok", "rejected", "rejected"]
    assert table["reason"].to_pylist()[:2] == [None, "empty file"]
    for name in ("predicted", "predicted_label", "probability", "top_labels", "probabilities"):
        assert [value is None for value in table[name].to_pylist()] == [False, True, True]
    assert (found.rejected, found.images, int(found.tally.images.sum())) == (2, 3, 1)
    assert found.example == f"{folder}/3/b.png row 0 (empty file)"


def test_files__refuse_other_arguments_once_something_is_listed(tmp_path: Path) -> None:
    files = PredictionFiles(str(tmp_path / "out"))
    files.begin({"top": 0, "source": "wrong"})
    files.begin(ARGUMENTS)
    files.note(listing={"images": 1, "parts": 1})
    assert files.begin(ARGUMENTS)["listing"] == {"images": 1, "parts": 1}
    with pytest.raises(RunError) as refused:
        files.begin({**ARGUMENTS, "top": 2})
    assert str(refused.value) == (
        f"OUT {tmp_path}/out: begun with other arguments (top was 0, now 2); "
        "give the same ones or another place"
    )


def test_files__refuse_a_place_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    PredictionFiles(str(tmp_path / "mine")).begin(ARGUMENTS)
    (tmp_path / "words").write_text("mine")
    for place in (tmp_path, tmp_path / "words"):
        with pytest.raises(RunError, match="not empty, and no prediction that could be gone on with"):
            PredictionFiles(str(place)).begin(ARGUMENTS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "predict.json").write_text("[]")
    with pytest.raises(RunError, match=r"predict\.json is not of this version"):
        PredictionFiles(str(tmp_path / "other")).begin(ARGUMENTS)


def test_files__one_process_fills_them_at_a_time(tmp_path: Path) -> None:
    files = PredictionFiles(str(tmp_path / "out"))
    with files.lease().held():
        files.begin(ARGUMENTS)
        again = PredictionFiles(str(tmp_path / "out")).lease()
        with pytest.raises(RunError, match=f"/out: process {os.getpid()} on .* predicts into it"):
            again.acquire()
    again.acquire()


def test_files__no_lease_is_left_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match="not empty"), PredictionFiles(str(tmp_path)).lease().held():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def write_parquet(path: Path, **columns: Any) -> str:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    pq.write_table(pa.table({"image": [buffer.getvalue()] * 2, **columns}), path)
    return str(path)


def test_source__labels_that_nobody_named_need_not_be_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", name=["ape", "cat"])
    spec = spec_of("parquet", path, None, None, Config())
    source, note = open_labeled(replace(spec, image_size=8, channels=1), may_lack_labels=True)
    assert source.class_names is None
    assert note is not None
    assert note.startswith("labels are not read (data.label_column 'label'")
    with pytest.raises(PoolError):
        open_labeled(spec, may_lack_labels=False)
    source, note = open_labeled(spec_of("parquet", path, None, "name", Config()), may_lack_labels=False)
    assert (source.class_names, note) == (["ape", "cat"], None)


def test_source__of_no_kind_and_at_no_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--kind zip: no such source; choose one of digits, "):
        spec_of("zip", str(tmp_path), None, None, Config())
    with pytest.raises(PoolError):
        spec_of(None, str(tmp_path / "nowhere"), None, None, Config())

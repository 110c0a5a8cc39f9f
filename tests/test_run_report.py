from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.config import Config
from dm2at_ray.errors import PoolError, RunError
from dm2at_ray.pool import open_source
from dm2at_ray.run_report import PICTURES_PER_ROUND, gather, write_report
from dm2at_ray.store import RunDirectory

from .stages.digits_run import SOURCE, DigitsRun, make_digits_run


@pytest.fixture
def digits_run(tmp_path: Path) -> DigitsRun:
    return make_digits_run(str(tmp_path / "digits"))


def pictures(page: str, alt: str) -> list[np.ndarray]:
    """The pixels of the page's pictures with such an alternative text, in order."""
    found = re.findall(rf'<img src="data:image/png;base64,([^"]+)" alt="{alt}"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in found]


def test_write_report__shows_each_query_beside_its_own_twin(digits_run: DigitsRun) -> None:
    path = Path(write_report(digits_run.directory.uri))
    assert path == Path(digits_run.directory.uri) / "report.html"
    page = path.read_text(encoding="utf-8")
    best = digits_run.queries[1][:PICTURES_PER_ROUND]
    assert len(best) < len(digits_run.queries[1])
    images, twins = pictures(page, r"sample \d+"), pictures(page, r"adversarial twin of sample \d+")
    np.testing.assert_array_equal(images, digits_run.images[best][..., 0])
    np.testing.assert_array_equal(twins, digits_run.twin_of(digits_run.images[best])[..., 0])
    named = [int(number) for number in re.findall(r'alt="sample (\d+)"', page)]
    assert named == best.tolist()


def test_gather__labels_predictions_and_scores_of_the_queries(digits_run: DigitsRun) -> None:
    data = gather(digits_run.directory, open_source(SOURCE))
    assert data.queries is not None
    assert data.queries[0] == [], "round 0 is drawn at random: nothing was chosen"
    best = digits_run.queries[1][:PICTURES_PER_ROUND]
    shown = data.queries[1]
    assert [query.sample_id for query in shown] == best.tolist()
    assert [query.true_label for query in shown] == digits_run.labels[best].tolist()
    assert [query.predicted_label for query in shown] == digits_run.predicted(best).tolist()
    expected = np.linspace(1, 0.5, len(digits_run.queries[1]), dtype=np.float32)[: len(best)]
    assert [query.score for query in shown] == expected.tolist()


def test_write_report__what_was_evaluated_afterwards(digits_run: DigitsRun) -> None:
    found = {
        "attack": "autoattack",
        "accuracy": 0.25,
        "accuracy_interval": [0.2, 0.31],
        "images": 1234,
        "settings": {"epsilon": 8 / 255, "attacks": ["apgd-ce", "square"]},
    }
    before = Path(write_report(digits_run.directory.uri)).read_text(encoding="utf-8")
    assert "Evaluated afterwards" not in before
    digits_run.directory.round(1).write_evaluation("autoattack", found)
    page = Path(write_report(digits_run.directory.uri)).read_text(encoding="utf-8")
    cells = re.findall(r"<td>([^<]*)</td>", page[page.index("Evaluated afterwards") :])[:6]
    assert cells[:1] + cells[2:] == ["1", "25.0 %", "20.0\N{EN DASH}31.0 %", "1,234", "ε 8/255, 2 attacks"]


def test_gather__facts_of_the_run(digits_run: DigitsRun) -> None:
    data = gather(digits_run.directory, open_source(SOURCE))
    assert [metrics["round"] for metrics in data.rounds] == [0, 1]
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.facts is not None
    assert data.facts["epsilon"] == "8/255"
    assert data.title == "digits"


def test_gather__leaves_an_open_round_out(digits_run: DigitsRun) -> None:
    digits_run.directory.round(2).files.write_bytes("queries.parquet", b"half a")
    assert len(gather(digits_run.directory, open_source(SOURCE)).rounds) == 2


def test_write_report__elsewhere(digits_run: DigitsRun, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    assert write_report(digits_run.directory.uri, output) == str(output)
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not digits_run.directory.files.exists("report.html")


def test_write_report__before_the_first_round(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.write_config(Config())
    page = Path(write_report(run.uri)).read_text(encoding="utf-8")
    assert pictures(page, r"sample \d+") == []


def test_write_report__of_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run there"):
        write_report(str(tmp_path / "none"))


def test_write_report__without_its_manifest(digits_run: DigitsRun) -> None:
    digits_run.directory.files.delete("pool/manifest")
    with pytest.raises(PoolError, match="pool manifest"):
        write_report(digits_run.directory.uri)

"""Runs on one's own images and models: a folder with broken files, Parquet, torchvision, an import path."""

from __future__ import annotations

import io
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from dm2at_ray import Config, RunResult, run
from dm2at_ray.monitoring.progress import ProgressView
from dm2at_ray.monitoring.snapshot import Snapshot
from dm2at_ray.pool import Manifest, Pool, open_source
from dm2at_ray.source_spec import source_spec
from dm2at_ray.status import read_status
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_array

from .commands import Command, tiny_config, write_config

SECONDS = 180
COLORS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def picture(color: tuple[int, int, int], seed: int, size: int = 12) -> bytes:
    """A PNG of one colour with noise."""
    noise = np.random.default_rng(seed).normal(0, 40, (size, size, 3))
    pixels = np.clip(np.asarray(color) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path, each: int) -> Path:
    """`each` pictures a colour, one sub-folder a class."""
    for number, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            (folder / name / f"{index:03d}.png").write_bytes(picture(color, seed=1000 * number + index))
    return folder


def break_three(folder: Path) -> dict[str, str]:
    """Add a truncated file, an empty one and a text; returns their names and why each is set aside."""
    whole = picture(COLORS["red"], seed=1)
    (folder / "blue" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "green" / "empty.png").write_bytes(b"")
    (folder / "red" / "words.jpg").write_text("this is no picture")
    return {
        "truncated.png": "truncated PNG",
        "empty.png": "empty file",
        "words.jpg": "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image",
    }


class Scraper(ProgressView):
    """Follows a run silently and keeps the last scrape of its metrics."""

    def __init__(self) -> None:
        self.scrape: dict[str, float] = {}

    def update(self, snapshot: Snapshot) -> None:
        for notice in snapshot.notices:
            try:
                with urllib.request.urlopen(notice.removeprefix("metrics: "), timeout=5) as reply:
                    families = list(text_string_to_metric_families(reply.read().decode()))
            except OSError:
                return  # The run has ended meanwhile.
            self.scrape = {sample.name: sample.value for family in families for sample in family.samples}

    def message(self, text: str) -> None:
        return

    def close(self) -> None:
        return

    def __enter__(self) -> Scraper:
        return self

    def __exit__(self, *_: object) -> None:
        return


@dataclass(frozen=True)
class Played:
    """A run on a source."""

    result: RunResult
    run: RunDirectory
    scrape: dict[str, float]
    broken: dict[str, str]


@pytest.fixture(scope="module")
def folder_run(joined: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """ResNet-18 and margin on a folder with broken images, until the pool is empty."""
    folder = tmp_path_factory.mktemp("folder")
    pool, test = write_folder(folder / "pool", each=20), write_folder(folder / "test", each=4)
    broken = break_three(pool)
    config = Config.from_mapping(
        tiny_config(
            data={
                "source": "image_folder",
                "path": str(pool),
                "test_path": str(test),
                "image_size": 12,
                "channels": 3,
                "max_rejected_fraction": 0.05,
            },
            model={"name": "resnet18", "batch_size": 16},
            query={"strategy": "margin", "initial": 40, "size": 30},
            stop={"rounds": None},
        )
    )
    scraper = Scraper()
    result = run(config, folder / "run", progress=scraper)
    return Played(result, RunDirectory(str(folder / "run")), scraper.scrape, broken)


@pytest.mark.ray
def test_image_folder__sets_broken_images_aside_with_their_reasons(folder_run: Played) -> None:
    files = folder_run.run.manifest_files("pool")
    manifest = Manifest.open(files.filesystem, files.root)
    rejected = manifest.rejected().to_pylist()
    assert {row["uri"].rsplit("/", 1)[-1]: row["reason"] for row in rejected} == folder_run.broken
    counts = manifest.counts()
    assert (counts.total, counts.ok, counts.rejected) == (63, 60, 3)


@pytest.mark.ray
def test_image_folder__counts_broken_images_and_never_asks_for_one(folder_run: Played) -> None:
    assert [metrics["rejected"] for metrics in folder_run.result.rounds] == [3, 3]
    assert read_status(folder_run.run.uri)["rejected"] == 3
    assert folder_run.scrape["dm2at_rejected_images"] == 3
    files = folder_run.run.manifest_files("pool")
    rejected = set(Manifest.open(files.filesystem, files.root).rejected()["sample_id"].to_pylist())
    asked = [i for r in folder_run.run.committed_rounds() for i in r.query_ids().tolist()]
    assert set(asked) == set(range(63)) - rejected
    assert len(asked) == 60


@pytest.mark.ray
def test_image_folder__the_run_ends_when_the_pool_is_empty(folder_run: Played) -> None:
    assert folder_run.result.reason == "the pool is empty"
    # The last round asks for what is left.
    assert [m["queried"] for m in folder_run.result.rounds] == [40, 20]
    assert folder_run.result.rounds[-1]["pool"] == 0


@pytest.mark.ray
def test_image_folder__labels_are_the_names_of_the_folders(folder_run: Played) -> None:
    files = folder_run.run.manifest_files("pool")
    manifest = Manifest.open(files.filesystem, files.root)
    for round_ in folder_run.run.committed_rounds():
        answers = round_.labels()
        uris = manifest.rows(answers["sample_id"].to_numpy())["uri"].to_pylist()
        folders = [uri.split("/")[-2] for uri in uris]
        assert [list(COLORS)[label] for label in answers["label"].to_pylist()] == folders


@pytest.mark.ray
def test_margin__asks_for_the_least_certain_first(folder_run: Played) -> None:
    scores = folder_run.run.round(1).queries()["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.ray
def test_image_folder__stops_when_too_many_images_are_broken(
    joined: str, tmp_path: Path, dm2at: Callable[..., tuple[int, str, str]]
) -> None:
    pool = write_folder(tmp_path / "pool", each=8)
    break_three(pool)
    data = {"source": "image_folder", "path": str(pool), "image_size": 12, "channels": 3}
    config = write_config(tmp_path / "run.yaml", data=data, query={"initial": 4, "size": 4})
    code, _, stderr = dm2at("run", config, "--run-dir", tmp_path / "run")
    assert code == 2
    (line,) = stderr.splitlines()
    assert line.startswith("data.max_rejected_fraction = 0.01: ")
    assert "cannot be read, such as " in line
    assert line.endswith("mend them, or raise the fraction to go on without them")
    status = read_status(str(tmp_path / "run"))
    assert (status["phase"], status["reason"], status["rounds"]) == ("failed", line, [])


@pytest.fixture(scope="module")
def parquet_run(joined: str, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The command, on an own model in its folder, and MixUp of prescreened images in Parquet."""
    folder = tmp_path_factory.mktemp("parquet")
    names = [name for name in COLORS for _ in range(30)]
    images = [picture(COLORS[name], seed=index) for index, name in enumerate(names)]
    order = np.random.default_rng(0).permutation(len(names))
    table = pa.table({"png": pa.array(images, pa.binary()), "colour": names}).take(order)
    pq.write_table(table, folder / "pool.parquet", row_group_size=16)
    shutil.copy(Path(__file__).with_name("own_network.py"), folder / "mine.py")
    write_config(
        folder / "run.yaml",
        data={
            "source": "parquet",
            "path": "pool.parquet",
            "image_column": "png",
            "label_column": "colour",
            "image_size": 12,
            "channels": 3,
        },
        model={"name": "mine:network", "batch_size": 16, "mean": [0.4, 0.5, 0.5]},
        query={"initial": 20, "size": 16, "measure": "least_confidence", "aggregate": "max"},
        neighbors={"k": 4},
        mixup={"space": "input", "prescreen": 2},
        stop={"rounds": None, "label_budget": 30},
    )
    with Command("run", "run.yaml", folder=folder, address=joined) as command:
        assert command.end(SECONDS) == 0, command.stderr
        assert command.stderr == ""
        assert "done: the budget of 30 labels is spent" in command.stdout.splitlines()
    # Without --run-dir it is runs/NAME.
    return RunDirectory(str(folder / "runs" / "tiny"))


@pytest.mark.ray
def test_parquet__a_round_asks_for_what_is_left_of_the_label_budget(parquet_run: RunDirectory) -> None:
    rounds = [round_.metrics() for round_ in parquet_run.committed_rounds()]
    assert [(metrics["queried"], metrics["labeled"]) for metrics in rounds] == [(20, 20), (10, 30)]


@pytest.mark.ray
def test_parquet__queries_are_the_most_uncertain_with_their_neighbours(parquet_run: RunDirectory) -> None:
    queries = parquet_run.round(1).queries()
    first, second = (set(parquet_run.round(index).query_ids().tolist()) for index in (0, 1))
    assert len(first | second) == 30
    assert queries["score"].to_pylist() == sorted(queries["score"].to_pylist(), reverse=True)
    for query in queries.to_pylist():
        assert len(set(query["neighbor_ids"])) == 4
        # They are other samples of U.
        assert not set(query["neighbor_ids"]) & {query["sample_id"], *first}
        assert query["neighbor_distances"] == sorted(query["neighbor_distances"])


@pytest.mark.ray
def test_parquet__the_own_model_learns_and_is_kept_by_its_import_path(parquet_run: RunDirectory) -> None:
    round_ = parquet_run.round(1)
    assert round_.model_spec().name == "mine:network"
    shapes = {tuple(weight.shape) for weight in round_.weights().values()}
    assert {(24, 3 * 12 * 12), (3, 24)} <= shapes


@pytest.mark.ray
@pytest.mark.parametrize("source", ["parquet_run", "folder_run"])
def test_twins__lie_within_epsilon_of_the_queries(source: str, request: pytest.FixtureRequest) -> None:
    played = request.getfixturevalue(source)
    run_directory: RunDirectory = played if source == "parquet_run" else played.run
    round_, files = run_directory.round(1), run_directory.manifest_files("pool")
    twins = round_.adversarial()
    assert twins is not None
    ids = twins["sample_id"].to_numpy()
    assert set(ids) == set(round_.query_ids())
    pool = Pool.open(files.filesystem, files.root, open_source(source_spec(run_directory.config())), 12, 3)
    difference = np.abs(tensor_array(twins["image"]).astype(int) - pool.read(ids))
    assert 0 < difference.max() <= 8  # epsilon is 8/255


@pytest.mark.ray
@pytest.mark.parametrize(
    ("section", "fields", "line"),
    [
        (
            "compute",
            {"gpus_per_worker": 1},
            "compute.gpus_per_worker = 1 for training.workers = 1: 1 GPUs are more than the 0 of the "
            "cluster; lower it or the workers, or join a larger cluster",
        ),
        (
            "compute",
            {"gpus_per_actor": 0.5},
            "compute.gpus_per_actor = 0.5: 0.5 GPUs are more than the 0 of the cluster; lower it, or join a "
            "larger cluster",
        ),
        (
            "training",
            {"workers": 5},
            "compute.cpus_per_worker = 1 for training.workers = 5: 5 CPUs are more than the 4 of the "
            "cluster; lower it or the workers, or join a larger cluster",
        ),
    ],
)
def test_more_than_the_cluster_has__ends_before_any_work(
    section: str,
    fields: dict[str, Any],
    line: str,
    joined: str,
    tmp_path: Path,
    dm2at: Callable[..., tuple[int, str, str]],
) -> None:
    config = write_config(tmp_path / "run.yaml", **{section: fields})
    assert dm2at("run", config, "--run-dir", tmp_path / "run") == (2, "", f"{line}\n")
    assert not (tmp_path / "run").exists()

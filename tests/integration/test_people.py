"""Rounds whose labels come from people: asked, answered by several at once, corrected, gone on with."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dm2at_ray.actor import DriverActor
from dm2at_ray.driver import Ending
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.pool import Manifest
from dm2at_ray.store import RunDirectory

from .commands import Command, wait_for, write_config
from .runs import play, round_of, same_weights, tiny_config

SECONDS = 300
NEW_CLASS = "glyph"
WAITING = "waiting for labels of 20 queries of round 1"


@dataclass
class Office:
    """A run, and the people who label for it.

    Attributes:
        run: Its directory.
        config: Its YAML file.
        waiting: What the first command printed.
        imports: What the importing commands printed, by what they brought.
        followed: What the command that waits printed.
        skipped: A sample of round 0 that nobody could tell.
        mistaken: One that was labeled wrongly at first.
        glyph: One of a class that was not known.
        unanswered: One of round 1 that nobody has answered.
    """

    folder: Path
    run: RunDirectory
    config: Path
    address: str
    waiting: str = ""
    imports: dict[str, str] = field(default_factory=dict)
    followed: str = ""
    skipped: int = -1
    mistaken: int = -1
    glyph: int = -1
    unanswered: int = -1

    def truth(self, ids: list[int]) -> dict[int, str]:
        """Names of the true classes."""
        manifest = Manifest.open(self.run.files.filesystem, self.run.manifest_files("pool").root)
        labels = manifest.rows(np.array(ids))["label"].to_pylist()
        return {each: self.run.class_names()[label] for each, label in zip(ids, labels, strict=True)}

    def sheet(self, name: str, answers: dict[int, str]) -> Path:
        """What a person sends back."""
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("sample_id", "label"), *answers.items()])
        return path

    def importing(self, name: str, answers: dict[int, str], *options: str) -> Command:
        """Start the import of a sheet."""
        sheet = self.sheet(name, answers)
        return Command(
            "labels", "import", self.run.uri, sheet, "--source", name, *options, folder=self.folder
        )

    def imported(self, name: str, answers: dict[int, str], *options: str, code: int = 0) -> None:
        """Import a sheet to the end."""
        with self.importing(name, answers, *options) as command:
            assert command.end(60) == code, command.stdout + command.stderr
            self.imports[name] = command.stdout + command.stderr


@pytest.fixture(scope="module")
def office(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Office:
    folder = tmp_path_factory.mktemp("people")
    config = write_config(
        folder / "people.yaml",
        query={"oracle": "files"},
        training={"warm_start": True},
        monitoring={"enabled": False},
    )
    run = RunDirectory(str(folder / "run"))
    office = Office(folder, run, config, ray_address)
    with Command("run", config, "--run-dir", run.uri, folder=folder, address=ray_address) as first:
        assert first.end(SECONDS) == 0, first.stderr
        office.waiting = first.stdout
    answer_round_0(office)
    with Command("run", config, "--run-dir", run.uri, "--wait", folder=folder, address=ray_address) as second:
        # In the midst of the selection of round 1.
        wait_for(
            "the selection",
            lambda: (run.status()["phase"], run.status()["round"]) == ("selecting", 1),
            SECONDS,
        )
        office.imported("late", {office.mistaken: office.truth([office.mistaken])[office.mistaken]})
        assert run.status()["phase"] == "selecting"
        wait_for(
            "the queries of round 1",
            lambda: "waiting for labels of 20 queries of round 1" in second.stdout,
            SECONDS,
        )
        ids = run.round(1).query_ids().tolist()
        office.unanswered = ids[-1]
        office.imported("rest", office.truth(ids[:-1]), "--accept-partial")
        assert second.end(SECONDS) == 0, second.stderr
        office.followed = second.stdout
    return office


def _where(run: RunDirectory) -> tuple[str, int]:
    return run.status()["phase"], run.status()["round"]


def answer_round_0(office: Office) -> None:
    """Two people at a time, with a few samples in common; one cannot tell, errs, and finds a new class."""
    ids = office.run.round(0).query_ids().tolist()
    office.skipped, office.mistaken, office.glyph = ids[0], ids[1], ids[2]
    answers = office.truth(ids)
    answers |= {office.skipped: "cannot tell", office.glyph: NEW_CLASS}
    answers[office.mistaken] = "3" if answers[office.mistaken] != "3" else "4"
    anna = {each: answers[each] for each in ids[:23]}
    ben = {each: answers[each] for each in ids[20:]}
    with (
        office.importing("anna", anna, "--add-class", NEW_CLASS) as one,
        office.importing("ben", ben) as two,
    ):
        assert one.end(60) == 0, one.stdout + one.stderr
        assert two.end(60) == 0, two.stdout + two.stderr


def known(run: RunDirectory, rounds: int) -> dict[int, int | None]:
    table = run.labels(rounds)
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.mark.ray
def test_run__ends_well_when_it_needs_labels(office: Office) -> None:
    lines = office.waiting.splitlines()
    assert (
        "awaiting_labels: labels of 40 queries of round 0, 0 are there; `dm2at labels import` takes them"
        in lines
    )
    exported = Path(office.run.uri) / "rounds/0000/export-csv"
    assert f"round 0: 40 queries to label in {exported}" in office.waiting.replace("\n", " ")
    with (exported / "queries.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["sample_id"]) for row in rows] == office.run.round(0).query_ids().tolist()
    assert len(list((exported / "pictures").glob("*.png"))) == 40


@pytest.mark.ray
def test_two_people_at_once__lose_nothing(office: Office) -> None:
    labels = known(office.run, 1)
    assert len(labels) == 40
    names = [*"0123456789", NEW_CLASS]
    truth = office.truth(list(labels))
    for sample_id, label in labels.items():
        if sample_id == office.skipped:
            assert label is None
        elif sample_id == office.glyph:
            assert label == names.index(NEW_CLASS)
        else:
            assert (names[label] == truth[sample_id]) == (sample_id != office.mistaken)
    assert set(office.run.round(0).labels()["source"].to_pylist()) == {"anna", "ben"}


@pytest.mark.ray
def test_new_class__is_told_and_learned(office: Office) -> None:
    assert office.run.class_names() == [*"0123456789", NEW_CLASS]
    assert f"round 0: class {NEW_CLASS} is new, number 10" in office.followed
    for index in (0, 1):
        assert office.run.round(index).model_spec().num_classes == 11
        assert office.run.round(index).weights()["head.weight"].shape[0] == 11


@pytest.mark.ray
def test_correction__while_a_run_selects_counts_from_the_next_training_on(office: Office) -> None:
    wrong, right = known(office.run, 1)[office.mistaken], known(office.run, 2)[office.mistaken]
    truth = office.truth([office.mistaken])[office.mistaken]
    assert office.run.class_names()[wrong] != truth
    assert office.run.class_names()[right] == truth
    assert office.run.round(1).corrections()["sample_id"].to_pylist() == [office.mistaken]
    assert "round 1: 1 labels of earlier rounds came or changed since" in office.followed
    history = LabelBook(office.run).records()
    kept = history.filter(pc.equal(history["sample_id"], office.mistaken))
    assert len(kept) == 2, "the first word is kept"


@pytest.mark.ray
def test_rounds__count_what_people_said(office: Office) -> None:
    first, second = (office.run.round(index).metrics() for index in (0, 1))
    assert (first["labeled"], first["skipped"], first["corrected"]) == (39, 1, 0)
    assert (second["labeled"], second["skipped"], second["corrected"]) == (39 + 19, 1, 1)
    size = first["labeled"] + first["skipped"] + first["pool"] + first["rejected"] + first["duplicates"]
    assert size == 1453
    assert second["pool"] == first["pool"] - 19, "who was not answered goes back to the pool"
    assert office.unanswered not in known(office.run, 2)
    assert sum(second["queries_by_class"]) == 19
    assert office.followed.splitlines()[-3] == "done: all 1 query rounds are done"


@pytest.mark.ray
def test_importing_again__changes_nothing(office: Office) -> None:
    before = LabelBook(office.run).records()
    ids = office.run.round(1).query_ids().tolist()
    office.imported("rest", office.truth(ids[:-1]))
    assert LabelBook(office.run).records().equals(before)


@pytest.mark.ray
def test_labeled_neighbors__are_the_nearest_of_the_labeled_set(office: Office) -> None:
    found = office.run.round(1).labeled_neighbors()
    assert found["sample_id"].to_pylist() == office.run.round(1).query_ids().tolist()
    labeled = {each for each, label in known(office.run, 1).items() if label is not None}
    for near, distances in zip(
        found["labeled_neighbor_ids"].to_pylist(),
        found["labeled_neighbor_distances"].to_pylist(),
        strict=True,
    ):
        assert len(near) == 5
        assert set(near) <= labeled
        assert distances == sorted(distances)


@pytest.mark.ray
def test_status__tells_what_is_waited_for(office: Office, tmp_path: Path) -> None:
    with Command("status", office.run.uri, "--json", folder=tmp_path) as command:
        assert command.end(60) == 0, command.stderr
    assert json.loads(command.stdout)["phase"] == "done"


@pytest.mark.ray
@pytest.mark.usefixtures("joined")
def test_people__who_know_all_lead_where_the_source_does(reference: Path, tmp_path: Path) -> None:
    """The queries, and what is learned from them, do not depend on who has labeled."""
    config = tiny_config(query={"oracle": "files"})
    run = RunDirectory(str(tmp_path / "run"))
    for index in (0, 1):
        outcome = play(config, tmp_path / "run", DriverActor)
        assert outcome.ending is not None
        assert outcome.ending.phase == "awaiting_labels"
        answer_all(run, index)
    outcome = play(config, tmp_path / "run", DriverActor)
    assert outcome.ending == Ending("done", "all 1 query rounds are done")
    for index in (0, 1):
        found, expected = round_of(tmp_path / "run", index), round_of(reference, index)
        assert found.queries().equals(expected.queries())
        assert same_weights(found, expected)


def answer_all(run: RunDirectory, index: int) -> None:
    ids = run.round(index).query_ids()
    manifest = Manifest.open(run.files.filesystem, run.manifest_files("pool").root)
    names = run.class_names()
    labels = [names[label] for label in manifest.rows(ids)["label"].to_pylist()]
    given = {"sample_id": ids, "label": labels, "round": pa.array([index] * len(ids), pa.int32())}
    LabelBook(run).append(pa.table(given), "all-knowing")

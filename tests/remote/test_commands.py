"""The commands with the URL of a run: the same words as with its directory, read and written over HTTP."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dm2at_ray.client import Client
from dm2at_ray.labeling import FORMATS, LabelBook
from dm2at_ray.service.tokens import new_token

from ..client.conftest import MANY, awaits
from ..labeling.asked_run import ASKED, FIRST, AskedRun, make_asked_run
from ..service.http.process import ServerProcess

Command = Callable[..., Any]


@dataclass(frozen=True)
class Twin:
    """A run behind a service, and one that is its like in a directory.

    Attributes:
        url: Of the run behind the service.
        served: That run.
        local: The other one.
    """

    url: str
    served: AskedRun
    local: AskedRun


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    folder = tmp_path_factory.mktemp("served")
    tokens = folder / "tokens.yaml"
    (folder / "ann").write_text(new_token(tokens, "ann", "operate"), encoding="utf-8")
    (folder / "bob").write_text(new_token(tokens, "bob", "label"), encoding="utf-8")
    with ServerProcess("--runs", folder / "runs", "--tokens", tokens) as server:
        yield server, folder


@pytest.fixture
def twin(
    place: tuple[ServerProcess, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Twin:
    """Two equal runs, and an operator's token in the environment."""
    server, folder = place
    monkeypatch.setenv("DM2AT_TOKEN", (folder / "ann").read_text(encoding="utf-8"))
    name = re.sub(r"\W", "_", request.node.name)[:90]
    asked = getattr(request, "param", ASKED)
    served = awaits(make_asked_run(str(folder / "runs" / name), asked))
    return Twin(f"{server.url}/runs/{name}", served, awaits(make_asked_run(str(tmp_path / name), asked)))


@pytest.fixture
def both(dm2at: Command, twin: Twin) -> Callable[..., tuple[Any, Any]]:
    """Calls a command with the directory and with the URL, and gives both answers."""

    def call(*arguments: Any) -> tuple[Any, Any]:
        here, there = (
            dm2at(*(place if each is twin else each for each in arguments))
            for place in (twin.local.directory.uri, twin.url)
        )
        return here, there

    return call


def write(path: Path, lines: list[tuple[object, object]]) -> Path:
    rows = "".join(f"{sample},{label}\n" for sample, label in lines)
    path.write_text(f"sample_id,label\n{rows}", encoding="utf-8")
    return path


def truth(run: AskedRun, samples: list[int]) -> list[tuple[object, object]]:
    return [(sample, run.names[sample]) for sample in samples]


def test_import__says_the_same_of_every_line(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.csv", [*truth(twin.local, ASKED[:2]), (ASKED[2], "cannot tell"), (3, "")])
    here, there = both("labels", "import", twin, good)
    assert (here.code, there.code) == (0, 0)
    assert here.stdout.replace(f"labels/{only_file(twin.local)}", "3 labels") == there.stdout
    mixed = write(
        tmp_path / "mixed.csv",
        [
            (ASKED[0], twin.local.names[ASKED[0]]),
            (ASKED[1], "nine"),
            (ASKED[3], "nime"),
            (ASKED[4], "one"),
            (ASKED[4], "two"),
            (ASKED[5], "one"),
            (ASKED[5], "one"),
            (2, "one"),
            ("cat", "one"),
        ],
    )
    here, there = both("labels", "import", twin, mixed)
    assert (here.code, there.code) == (2, 2)
    expected = here.stdout.replace("the pool has the ids 0 to 1452", "no number of a sample")
    assert there.stdout == expected
    assert "--add-class nime makes it one" in there.stdout
    assert len(LabelBook(twin.served.directory).records()) == len(FIRST) + 3
    here, there = both("labels", "import", twin, mixed, "--keep-good", "--json")
    assert (here.code, there.code) == (0, 0)
    found, expected = json.loads(there.stdout), json.loads(here.stdout)
    assert found["counts"] == expected["counts"]
    assert (found["written"], found["missing"]) == ("2 labels", expected["missing"])
    for line, like in zip(found["lines"], expected["lines"], strict=True):
        assert line["by"] == "ann"
        if line["sample"] != "cat":
            assert {**line, "by": ""} == {**like, "by": ""}


def only_file(run: AskedRun) -> str:
    """The log's file that is not from the beginning."""
    return max(name for name in run.directory.files.names("labels") if name.endswith(".parquet"))


def test_import__again_changes_nothing(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    file = write(tmp_path / "all.csv", truth(twin.local, ASKED))
    first, again = (both("labels", "import", twin, file) for _ in range(2))
    assert "written: 6 labels" in first[1].stdout
    assert again[0].stdout == again[1].stdout
    assert "nothing to write" in again[1].stdout


def test_import__new_classes_and_the_word_that_it_is_enough(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    file = write(tmp_path / "some.csv", [(ASKED[0], "cannot tell"), (ASKED[1], "blot")])
    here, there = both("labels", "import", twin, file, "--add-class", "blot", "--accept-partial")
    assert (here.code, there.code) == (0, 0)
    assert here.stdout.replace(f"labels/{only_file(twin.local)}", "2 labels") == there.stdout
    assert LabelBook(twin.served.directory).is_accepted(1)


def test_import__the_word_that_it_is_enough_needs_a_label(
    both: Callable[..., tuple[Any, Any]], twin: Twin
) -> None:
    here, there = both("labels", "import", twin, "--accept-partial")
    assert (here.code, there.code) == (2, 2)
    assert here.stderr == there.stderr


@pytest.mark.parametrize("twin", [[n for n in range(1400) if n not in FIRST]], indirect=True)
def test_import__thousands_in_pieces_all_or_none(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    asked = [n for n in range(1400) if n not in FIRST]
    lines = truth(twin.local, asked)
    bad = write(tmp_path / "bad.csv", [*lines[:-1], (asked[-1], "nonsense")])
    here, there = both("labels", "import", twin, bad)
    assert (here.code, there.code) == (2, 2)
    assert there.stdout == here.stdout
    assert len(LabelBook(twin.served.directory).records()) == len(FIRST)
    here, there = both("labels", "import", twin, write(tmp_path / "good.csv", lines))
    assert (here.code, there.code) == (0, 0)
    assert "written: 1,396 labels" in there.stdout
    effective = LabelBook(twin.served.directory).effective(asked)
    assert dict(zip(effective["sample_id"].to_pylist(), effective["label"].to_pylist(), strict=True)) == dict(
        lines
    )


def test_import__who_labels_is_the_token_s_to_say(dm2at: Command, twin: Twin, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", truth(twin.local, ASKED[:1]))
    answer = dm2at("labels", "import", twin.url, file, "--source", "eve")
    assert (answer.code, answer.stderr) == (
        2,
        "--source eve: the service writes down whose token it is; leave it out\n",
    )


def test_import__what_the_token_does_not_allow(
    dm2at: Command,
    twin: Twin,
    tmp_path: Path,
    place: tuple[ServerProcess, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DM2AT_TOKEN", (place[1] / "bob").read_text(encoding="utf-8"))
    file = write(tmp_path / "a.csv", [(ASKED[0], "yak")])
    answer = dm2at("labels", "import", twin.url, file, "--add-class", "yak")
    assert answer.code == 2
    assert answer.stderr.count("\n") == 1
    assert "new classes are an operator's to add" in answer.stderr
    assert dm2at("labels", "import", twin.url, write(file, truth(twin.local, ASKED[:1]))).code == 0
    assert [said.source for said in Client(place[0].url).said(twin.url.rpartition("/")[2], ASKED[0])] == [
        "bob"
    ]


def test_status__and_history_of_labels(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    both("labels", "import", twin, write(tmp_path / "a.csv", truth(twin.local, ASKED[:2])))
    both("labels", "import", twin, write(tmp_path / "b.csv", [(ASKED[0], "cannot tell"), (FIRST[0], "one")]))
    for options in ([], ["--json"]):
        here, there = both("labels", "status", twin, *options)
        assert there.code == 0
        by_file = here.stdout.replace('"a.csv": 1', '"ann": 3').replace("by a.csv: 1", "by ann: 3")
        assert lines_of(by_file) == lines_of(there.stdout)
    for options in (["--sample", ASKED[0]], []):
        here, there = both("labels", "history", twin, *options)
        assert there.code == 0
        plain = [re.sub(r"^.* UTC|, \w+(\.csv)?$", "", line) for line in here.stdout.splitlines()]
        assert plain == [re.sub(r"^.* UTC|, \w+$", "", line) for line in there.stdout.splitlines()]
        here, there = both("labels", "history", twin, *options, "--json")
        same = ("sample_id", "label", "round", "was")
        assert [[row[name] for name in same] for row in json.loads(here.stdout)] == [
            [row[name] for name in same] for row in json.loads(there.stdout)
        ]


def lines_of(text: str) -> set[str]:
    """The lines without who said what, as a directory's log has the files' names."""
    return {line.rstrip(",") for line in text.splitlines() if "ann" not in line and ".csv" not in line}


def test_status__of_a_run(both: Callable[..., tuple[Any, Any]], twin: Twin) -> None:
    for run in (twin.local, twin.served):
        run.directory.round(0).write_metrics({"round": 0, "labeled": 4, "accuracy": {"clean": 0.5}})
    here, there = both("status", twin)
    assert there.code == 0
    assert there.stdout.splitlines()[1:] == here.stdout.splitlines()[1:]
    assert there.stdout.startswith("awaiting_labels: labels of 6 queries of round 1, 0 are there")
    here, there = (json.loads(answer.stdout) for answer in both("status", twin, "--json"))
    for name in ("phase", "round", "stage", "labeled", "pool", "live", "driver_host", "rounds"):
        assert here[name] == there[name], name
    assert there["awaiting"]["asked"] == 6


@pytest.mark.parametrize("name", FORMATS)
def test_export__is_the_directory_s_but_for_the_images_places(
    both: Callable[..., tuple[Any, Any]],
    twin: Twin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    there = both("queries", "export", twin, "--format", name)[1]
    assert there.code == 0, there.stderr
    run_name = twin.url.rpartition("/")[2]
    folder = tmp_path / f"{run_name}-0001-{name}"
    expected = Path(twin.local.directory.uri) / f"rounds/0001/export-{name}"
    assert tree(folder) == tree(expected)
    for file in tree(folder):
        if file.endswith(".png"):
            pixels = twin.local.pixels[int(Path(file).stem)]
            np.testing.assert_array_equal(np.asarray(Image.open(folder / file)), pixels)
    read = FORMATS[name].read
    for found, like in zip(
        *(read((each / FORMATS[name].INDEX).read_bytes()) for each in (folder, expected)), strict=True
    ):
        assert (found.sample, found.label, found.place) == (like.sample, like.label, None)
    assert f"dm2at labels import {twin.url} FILE" in there.stdout


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_export__goes_into_the_run_or_its_directory_once_it_is_filled_in(
    dm2at: Command, twin: Twin, tmp_path: Path
) -> None:
    for uri, out in ((twin.url, "a"), (twin.local.directory.uri, "b")):
        folder = tmp_path / out
        assert dm2at("queries", "export", twin.url, "-o", folder, "--overwrite").code == 0
        with (folder / "queries.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["label"] = twin.local.names[int(row["sample_id"])]
        with (folder / "queries.csv").open("w", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        answer = dm2at("labels", "import", uri, folder / "queries.csv")
        assert answer.code == 0, answer
        assert "round 1: 6 of 6 answered" in answer.stdout


@pytest.mark.parametrize("twin", [[n for n in range(1400) if n not in FIRST][:MANY]], indirect=True)
def test_export__of_more_queries_than_a_page_without_pictures(
    both: Callable[..., tuple[Any, Any]], twin: Twin, tmp_path: Path
) -> None:
    (out := tmp_path / "out").mkdir()
    there = both("queries", "export", twin, "--pictures", "none", "-o", out, "--overwrite")[1]
    assert there.code == 0
    with (out / "queries.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(MANY))
    assert {row["picture"] for row in rows} == {""}


def test_export__what_cannot_be(dm2at: Command, twin: Twin, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options, words in (
        (["--pictures", "link"], "--pictures link: the images are behind the service"),
        (["--round", 7], "--round 7: it has no queries; rounds with queries: 0, 1"),
        (["--format", "cvat", "--pictures", "none"], "--pictures none: CVAT knows images by their files"),
    ):
        there = dm2at("queries", "export", twin.url, "-o", out, *options)
        assert there.code == 2
        assert there.stderr.startswith(words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", "no URL of a run"),
        ("http://127.0.0.1:9/runs/", "no URL of a run"),
        ("http://127.0.0.1:9/runs/a/rounds/1", "no URL of a run"),
        ("http://user:secret@127.0.0.1:9/runs/a", "a secret in a URL"),
        ("http://127.0.0.1:x/runs/a", "no URL of a service"),
        ("http://127.0.0.1:9/runs/..", "no name that a run may have"),
    ],
)
def test_commands__refuse_what_is_no_run_s_url(dm2at: Command, url: str, words: str) -> None:
    for command in (["status", url], ["labels", "status", url], ["queries", "export", url]):
        answer = dm2at(*command)
        assert answer.code == 2
        assert words in answer.stderr
        assert answer.stderr.count("\n") == 1
        assert "secret@" not in answer.stderr


def test_commands__of_a_run_that_is_not_there(dm2at: Command, twin: Twin) -> None:
    url = twin.url.rpartition("/")[0]
    for command in (["status", f"{url}/none"], ["labels", "history", f"{url}/none"]):
        answer = dm2at(*command)
        assert (answer.code, answer.stderr) == (2, "run 'none': not in this service's folder of runs\n")

"""What `dm2at pool` says before any work, and of a pool that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.named import source_named
from dm2at_ray.pool_build import Request, united_names

from .conftest import contents, pack_source


@pytest.fixture(autouse=True)
def stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands leave their folder; the next test starts where this one did."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pool"], "OUT 'pool': only one place is given; give what to pack first, then the pool's place"),
        (["images", "pool", "--split", "train"], "--split train: unknown; use pool or test"),
        (["images", "pool", "--channels", "2"], "--channels 2: neither gray nor colour; use 1 or 3"),
    ],
)
def test_build__arguments_that_make_no_sense(
    arguments: list[str], line: str, dm2at: Callable[..., Any], folder: Path
) -> None:
    assert dm2at("pool", "build", *arguments) == (2, "", f"{line}\n")


def test_build__of_nothing(dm2at: Callable[..., Any], tmp_path: Path) -> None:
    code, _, stderr = dm2at("pool", "build", "nowhere", "pool")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "source 'nowhere': " in stderr
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("out", ["images", "images/pool", "."])
def test_build__never_into_its_own_source(out: str, dm2at: Callable[..., Any], folder: Path) -> None:
    before = contents(folder)
    code, _, stderr = dm2at("pool", "build", "images", out)
    assert code == 2
    assert "in or above the source" in stderr
    assert contents(folder) == before


def test_build__never_among_other_files(dm2at: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    code, _, stderr = dm2at("pool", "build", "images", "mine")
    assert code == 2
    assert stderr == (
        f"OUT '{tmp_path}/mine': holds other files; give an empty place, or one that is not there\n"
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_build__never_over_another_pool(
    dm2at: Callable[..., Any], folder: Path, directory: PoolDirectory, source: Source
) -> None:
    pack_source(directory, source)
    before = contents(Path(directory.place.path))
    code, _, stderr = dm2at("pool", "build", "images", directory.place.path)
    assert code == 2
    assert "there is one already; add to it by `dm2at pool add`, or give another OUT" in stderr
    assert contents(Path(directory.place.path)) == before


@pytest.mark.parametrize("command", ["add", "info", "check"])
def test_commands__where_there_is_no_pool(command: str, dm2at: Callable[..., Any], folder: Path) -> None:
    place = "pool:nowhere" if command == "check" else "nowhere"
    code, _, stderr = dm2at("pool", command, place, *(["images"] if command == "add" else []))
    assert code == 2
    assert "no pool there" in stderr
    assert not Path("nowhere").exists()


def test_info__tells_what_is_there(
    dm2at: Callable[..., Any], folder: Path, directory: PoolDirectory, source: Source
) -> None:
    catalog = pack_source(directory, source)
    assert catalog is not None
    found = json.loads(dm2at("pool", "info", directory.place.path, "--rejected", "--json").stdout)
    assert (found["images"], found["rejected"], found["duplicates"], found["labeled"]) == (8, 1, 1, 8)
    assert found["class_names"] == ["a", "b"]
    assert found["bytes"] == catalog.shards[0].bytes
    aside = {
        "sample_id": 6,
        "origin": f"{folder}/b/2.png",
        "origin_row": 0,
        "reason": "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM image",
    }
    assert found["rejected_images"] == [aside]


def test_info__as_text(dm2at: Callable[..., Any], directory: PoolDirectory, source: Source) -> None:
    building = pack_source(directory, source, stop_before=0)
    assert building is None
    code, _, stderr = dm2at("pool", "info", directory.place.path)
    assert (code, "its build is not done" in stderr) == (2, True)


def test_source_named__by_its_kind_or_by_what_is_there(folder: Path, tmp_path: Path) -> None:
    spec = source_named("images", label_column=None)
    assert (spec.kind, spec.path, spec.label_column) == ("image_folder", str(tmp_path / "images"), None)
    assert source_named("image_folder:images").path == str(tmp_path / "images")
    assert source_named("digits:") == source_named("digits") == SourceSpec(kind="digits")
    assert source_named("image_folder:../x/./images").path == str(tmp_path.parent / "x" / "images")
    (folder / "a").rename(tmp_path / "digits")
    assert source_named("digits").path == str(tmp_path / "digits")
    with pytest.raises(PoolError, match="source 'nokind:images'"):
        source_named("nokind:images")


def test_request__tells_sources_apart_but_not_how_they_were_written(folder: Path) -> None:
    def request(*texts: str, **fields: Any) -> dict[str, Any]:
        return Request("out", tuple(source_named(text, **fields) for text in texts)).to_json()

    assert request("images") == request("image_folder:./images")
    assert request("images") != request("images/a")
    assert request("images") != request("images", label_column="other")
    assert json.loads(json.dumps(request("images", class_names=("a", "b")))) == request(
        "images", class_names=("a", "b")
    )


def test_request__keeps_no_keys_of_a_uri() -> None:
    spec = SourceSpec(kind="parquet", path="s3://bucket/images?region=eu-west-1")
    assert Request("out", (spec,)).to_json()["sources"] == [{"kind": "parquet", "path": "s3://bucket/images"}]
    with pytest.raises(PoolError, match="a secret in a URI ends up in configs and logs; leave it out"):
        Request("out", (replace(spec, path="s3://key:secret@bucket/images"),)).to_json()


def test_united_names__in_order_of_appearance() -> None:
    class Named:
        def __init__(self, *names: str) -> None:
            self.class_names = list(names) or None

    def united(*sources: Named) -> list[str] | None:
        return united_names(("cat",), list(sources))  # type: ignore[arg-type]

    assert united(Named("dog", "cat"), Named(), Named("ape", "dog")) == ["cat", "dog", "ape"]
    assert united_names(None, [Named()]) is None  # type: ignore[list-item]

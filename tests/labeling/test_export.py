"""Exports with their pictures: what is in them, whose folder it is, and what a cut leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling import FORMATS, ExportSettings, LabelBook, export_queries
from dm2at_ray.labeling.pictures import encoded
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, check_part, open_source, part_name
from dm2at_ray.store.files import Files

from .asked_run import ASKED, AskedRun, queries


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "queries.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def jpeg(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def photo_run(asked_run: AskedRun, tmp_path: Path) -> tuple[AskedRun, Source, list[Path]]:
    """The run on image files instead; one of them is a PNG that is named .jpg."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{place}.jpg" for place in range(4)]
    for place, path in enumerate(paths):
        path.write_bytes(jpeg(60 * place))
    Image.new("L", (5, 5)).save(paths[3], format="PNG")
    source = open_source(SourceSpec("image_folder", path=str(folder), image_size=4, channels=3))
    (table,) = source.tables("pool")
    files = asked_run.directory.manifest_files("pool")
    files.write_table(part_name(0), check_part(source, table, 0, image_size=4, channels=3))
    asked_run.directory.round(1).write_queries(queries([3, 1], [0, 1]))
    asked_run.directory.round(1).files.delete("context.parquet")
    return asked_run, source, paths


@pytest.mark.parametrize("name", FORMATS)
def test_export__every_format_with_the_pictures_of_queries_and_neighbors(
    asked_run: AskedRun, name: str
) -> None:
    found = export_queries(asked_run.directory, asked_run.source, name)
    folder = Path(asked_run.directory.uri) / f"rounds/0001/export-{name}"
    assert (found.folder, found.tasks, found.pictures, found.written) == (str(folder), 6, 10, True)
    assert found.index == str(folder / FORMATS[name].INDEX)
    answers = FORMATS[name].read(Path(found.index).read_bytes())
    assert {answer.sample for answer in answers} == {str(sample) for sample in ASKED}
    names = [f"pictures/{sample}.png" for sample in ASKED]
    names += [f"neighbors/{sample}.png" for sample in (40, 7, 1200, 3)]
    assert set(names) < set(tree(folder))
    for picture in names:
        pixels = asked_run.pixels[int(Path(picture).stem)]
        np.testing.assert_array_equal(np.asarray(Image.open(folder / picture)), pixels)


def test_export__elsewhere_of_an_earlier_round_without_neighbors(asked_run: AskedRun, tmp_path: Path) -> None:
    settings = ExportSettings(pictures="none", neighbors=False)
    found = export_queries(
        asked_run.directory,
        asked_run.source,
        "csv",
        round_index=0,
        output=f"file://{tmp_path}/out",
        settings=settings,
    )
    assert (found.folder, found.round) == (f"file://{tmp_path}/out", 0)
    assert tree(tmp_path / "out") == ["export.json", "queries.csv"]
    assert [row["label"] for row in rows(tmp_path / "out")] == [asked_run.names[s] for s in (40, 7, 1200, 3)]
    assert {row["picture"] for row in rows(tmp_path / "out")} == {"sklearn:digits"}


def test_export__tiny_images_larger(asked_run: AskedRun, tmp_path: Path) -> None:
    settings = ExportSettings(size=60)
    export_queries(
        asked_run.directory, asked_run.source, "csv", output=str(tmp_path / "o"), settings=settings
    )
    pixels = np.asarray(Image.open(tmp_path / "o/pictures/5.png"))
    np.testing.assert_array_equal(pixels, np.kron(asked_run.pixels[5], np.ones((7, 7), np.uint8)))


def test_export__copies_are_the_source_s_own_bytes_by_their_real_format(
    photo_run: tuple[AskedRun, Source, list[Path]], tmp_path: Path
) -> None:
    run, source, paths = photo_run
    export_queries(run.directory, source, "csv", output=str(tmp_path / "out"))
    assert tree(tmp_path / "out/pictures") == ["1.jpg", "3.png"]
    assert (tmp_path / "out/pictures/1.jpg").read_bytes() == paths[1].read_bytes()
    assert (tmp_path / "out/pictures/3.png").read_bytes() == paths[3].read_bytes()


def test_export__links_and_then_copies_that_leave_the_originals_alone(
    photo_run: tuple[AskedRun, Source, list[Path]], tmp_path: Path
) -> None:
    run, source, paths = photo_run
    before = [path.read_bytes() for path in paths]
    out, links = str(tmp_path / "out"), ExportSettings(pictures="link")
    export_queries(run.directory, source, "csv", output=out, settings=links)
    assert (tmp_path / "out/pictures/1.jpg").readlink() == paths[1]
    larger = ExportSettings(size=100)
    export_queries(run.directory, source, "csv", output=out, settings=larger, overwrite=True)
    assert tree(tmp_path / "out/pictures") == ["1.png", "3.png"]
    assert Image.open(tmp_path / "out/pictures/1.png").size == (96, 64)
    assert [path.read_bytes() for path in paths] == before


def test_export__what_cannot_be_linked_or_shown(asked_run: AskedRun) -> None:
    run, source = asked_run.directory, asked_run.source
    with pytest.raises(LabelError, match="--pictures link: sklearn:digits is no file of one image"):
        export_queries(run, source, "csv", settings=ExportSettings(pictures="link"))
    with pytest.raises(LabelError, match="--pictures none: CVAT knows images by their files"):
        export_queries(run, source, "cvat", settings=ExportSettings(pictures="none"))
    with pytest.raises(LabelError, match="--size 64: only copies can be enlarged"):
        export_queries(run, source, "csv", settings=ExportSettings(pictures="link", size=64))


def test_export__an_image_that_is_gone(
    photo_run: tuple[AskedRun, Source, list[Path]], tmp_path: Path
) -> None:
    run, source, paths = photo_run
    paths[1].unlink()
    with pytest.raises(LabelError, match=r"sample 1 \('.*1\.jpg', row 0\) can no longer be read: no such"):
        export_queries(run.directory, source, "csv", output=str(tmp_path / "out"))
    assert not (tmp_path / "out/queries.csv").exists()


def test_export__label_studio_is_told_where_its_file_storage_serves_pictures(
    asked_run: AskedRun, tmp_path: Path
) -> None:
    out = str(tmp_path / "round-1")
    export_queries(asked_run.directory, asked_run.source, "label-studio", output=out)
    tasks = json.loads((tmp_path / "round-1/tasks.json").read_text(encoding="utf-8"))
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=round-1/pictures/1300.png"
    served = ExportSettings(url_prefix="https://pictures.example.org/")
    export_queries(
        asked_run.directory, asked_run.source, "label-studio", output=out, settings=served, overwrite=True
    )
    tasks = json.loads((tmp_path / "round-1/tasks.json").read_text(encoding="utf-8"))
    assert tasks[0]["data"]["neighbor_images"][0] == "https://pictures.example.org/neighbors/40.png"


def test_export__a_whole_one_is_left_to_who_fills_it_in(asked_run: AskedRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_queries(asked_run.directory, asked_run.source, "csv", output=str(out))
    (out / "queries.csv").write_text("sample_id,label\n5,nine\n", encoding="utf-8")
    again = export_queries(asked_run.directory, asked_run.source, "csv", output=str(out))
    assert (again.written, again.tasks, again.pictures) == (False, 6, None)
    assert rows(out) == [{"sample_id": "5", "label": "nine"}]
    LabelBook(asked_run.directory).append(pa.table({"sample_id": [5], "label": ["two"], "round": [1]}), "ann")
    assert export_queries(
        asked_run.directory, asked_run.source, "csv", output=str(out), overwrite=True
    ).written
    assert [(r["sample_id"], r["label"]) for r in rows(out)][:2] == [("1300", ""), ("5", "two")]


def test_export__does_not_take_other_people_s_folders(asked_run: AskedRun, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "pictures").mkdir(parents=True)
    (mine / "pictures/1300.png").write_bytes(b"my holidays")
    with pytest.raises(LabelError, match="not empty, and no export of queries"):
        export_queries(asked_run.directory, asked_run.source, "csv", output=str(mine), overwrite=True)
    assert (mine / "pictures/1300.png").read_bytes() == b"my holidays"
    out = str(tmp_path / "out")
    export_queries(asked_run.directory, asked_run.source, "csv", output=out)
    with pytest.raises(LabelError, match="holds the queries of round 1 of digits as csv"):
        export_queries(asked_run.directory, asked_run.source, "parquet", output=out)


CUT_OFF = """
import sys, time
from dm2at_ray.labeling import export, export_queries, picture_files
from dm2at_ray.pool import SourceSpec, open_source
from dm2at_ray.store import RunDirectory
run_dir, name, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
put, index = picture_files._put, export.FORMATS[name]
written = []
def pause():
    print("now", flush=True)
    time.sleep(600)
def counted(files, name, data):
    if len(written) == after:
        (files.local_root / name).write_bytes(data[: len(data) // 2])
        pause()
    written.append(name)
    put(files, name, data)
picture_files._put = counted
if after == 10:
    index.write = lambda sheet, files: pause()
export_queries(RunDirectory(run_dir), open_source(SourceSpec("digits", image_size=8, channels=1)), name)
"""


@pytest.mark.parametrize(("name", "after"), [("csv", 3), ("label-studio", 10)])
def test_export__killed_in_the_middle_is_completed_by_the_next(
    asked_run: AskedRun, tmp_path: Path, name: str, after: int
) -> None:
    uri = asked_run.directory.uri
    with subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, uri, name, str(after)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    folder = Path(uri) / f"rounds/0001/export-{name}"
    left = tree(folder)
    assert any(file.startswith("pictures/") for file in left)
    assert FORMATS[name].INDEX not in left
    # As if the one that was cut off had named its pictures otherwise.
    (folder / "pictures/1300.jpg").write_bytes(b"half a")
    assert export_queries(asked_run.directory, asked_run.source, name).written
    whole = str(tmp_path / f"export-{name}")
    export_queries(asked_run.directory, asked_run.source, name, output=whole)
    assert tree(folder) == tree(Path(whole))
    for file in tree(folder):
        assert (folder / file).read_bytes() == Path(whole, file).read_bytes(), file
    assert not [file for file in os.listdir(folder) if file.endswith(".tmp")]


def test_encoded__of_all_that_pools_hold() -> None:
    for pixels, mode in (((2, 3), "L"), ((2, 3, 1), "L"), ((2, 3, 3), "RGB"), ((2, 3, 4), "RGBA")):
        data, suffix, width, height = encoded(np.zeros(pixels, np.uint8))
        assert (suffix, width, height) == (".png", 3, 2)
        assert Image.open(io.BytesIO(data)).mode == mode
    with pytest.raises(UnreadableImage):
        encoded(np.zeros((2, 3, 7), np.uint8))
    with pytest.raises(UnreadableImage):
        encoded(b"no image")


def test_encoded__a_turned_photo_is_as_large_as_it_is_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("CMYK", (6, 4)).save(buffer, format="JPEG", exif=exif)
    assert encoded(buffer.getvalue()) == (buffer.getvalue(), ".jpg", 4, 6)
    data, suffix, width, height = encoded(buffer.getvalue(), size=12)
    assert (suffix, width, height) == (".png", 8, 12)
    assert Image.open(io.BytesIO(data)).size == (8, 12)


def test_export__where_files_are_no_local_ones(
    photo_run: tuple[AskedRun, Source, list[Path]], tmp_path: Path
) -> None:
    run, source, paths = photo_run
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    run.directory.files = Files(filesystem, Path(run.directory.uri).name)
    export_queries(run.directory, source, "csv")
    folder = Path(run.directory.uri) / "rounds/0001/export-csv"
    assert tree(folder / "pictures") == ["1.jpg", "3.png"]
    export_queries(run.directory, source, "csv", settings=ExportSettings(pictures="link"), overwrite=True)
    assert not (folder / "pictures").exists() or tree(folder / "pictures") == []
    assert [row["picture"] for row in rows(folder)] == [paths[3].as_uri(), paths[1].as_uri()]

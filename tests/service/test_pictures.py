"""Pictures of what a round shows: from every kind of source, for browsers, and from nowhere else."""

from __future__ import annotations

import gzip
import io
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dm2at_ray.labeling import ExportSettings, LabelBook, export_queries
from dm2at_ray.pool import Source, open_source
from dm2at_ray.service import pictures as module
from dm2at_ray.service.guarded import GuardedSource
from dm2at_ray.service.pictures import Pictures
from dm2at_ray.source_spec import source_spec
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.tensors import tensor_column

from ..stages.digits_run import DigitsRun, make_digits_run
from .conftest import ask, encode, make_run, pixels_of, refused

OpenPictures = Callable[..., Pictures]


def photo(seed: int, shape: tuple[int, ...] = (12, 10, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "photos"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder_run(tmp_path: Path) -> tuple[RunDirectory, Path]:
    """A run on six PNG files; its round asks for 1 and 4, beside the labeled 0."""
    folder = folder_of(tmp_path, {f"{n % 2}/{n}.png": encode(photo(n), "PNG") for n in range(6)})
    data = {"source": "image_folder", "path": str(folder)}
    return make_run(str(tmp_path / "runs/folder"), data, [1, 4], {1: [0]}), folder


def file_of(run: RunDirectory, sample_id: int) -> Path:
    return Path(pq.read_table(Path(run.uri) / "pool/manifest/part-00000.parquet")["uri"][sample_id].as_py())


def test_picture__files_that_browsers_show_stay_as_they_are(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    files = {
        "a.png": encode(photo(1), "PNG"),
        "b.jpg": encode(photo(2), "JPEG"),
        "c.webp": encode(photo(3), "WEBP", lossless=True),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, [0, 1, 2], {})
    pictures = open_pictures([folder])
    found = [pictures.picture(run, sample) for sample in range(3)]
    assert [each.data for each in found] == list(files.values())
    assert [each.media_type for each in found] == ["image/png", "image/jpeg", "image/webp"]
    assert len({each.etag for each in found}) == 3


def test_picture__what_browsers_do_not_show_is_encoded_anew(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    deep = (photo(3, (12, 10)).astype(np.uint16) << 8) + 7
    files = {
        "a.tif": encode(photo(1), "TIFF", compression="tiff_lzw"),
        "b.bmp": encode(photo(2), "BMP"),
        "c.png": encode(Image.fromarray(deep), "PNG"),
        "d.ppm": encode(photo(4), "PPM"),
        "e.jpg": encode(Image.fromarray(photo(5)).convert("CMYK"), "JPEG", quality=100, subsampling=0),
        "f.gif": encode(
            Image.new("L", (12, 10), 30), "GIF", save_all=True, append_images=[Image.new("L", (12, 10), 200)]
        ),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, list(range(6)), {})
    pictures = open_pictures([folder])
    found = {name: pictures.picture(run, sample) for sample, name in enumerate(files)}
    assert [each.media_type for each in found.values()] == ["image/png"] * 4 + ["image/jpeg", "image/png"]
    for name, expected in (("a.tif", photo(1)), ("b.bmp", photo(2)), ("d.ppm", photo(4))):
        np.testing.assert_array_equal(pixels_of(found[name].data), expected)
    np.testing.assert_array_equal(pixels_of(found["c.png"].data), photo(3, (12, 10)))
    # Ink that is taken for light would be off by a hundred.
    near = np.abs(pixels_of(found["e.jpg"].data).astype(int) - photo(5)).mean()
    assert near < 12
    assert Image.open(io.BytesIO(found["e.jpg"].data)).mode == "RGB"
    first_frame = Image.open(io.BytesIO(found["f.gif"].data))
    assert getattr(first_frame, "n_frames", 1) == 1
    assert np.asarray(first_frame.convert("L"))[0, 0] == 30


def test_picture__huge_ones_are_scaled_down_and_turned_ones_stand_upright(
    tmp_path: Path, open_pictures: OpenPictures
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.png": encode(Image.new("RGB", (5000, 100), (10, 200, 30)), "PNG"),
        "b.jpg": encode(Image.new("RGB", (3000, 2500), (10, 200, 30)), "JPEG"),
        "c.jpg": encode(Image.new("RGB", (30, 20)), "JPEG", exif=exif),
        "d.png": encode(Image.new("RGB", (30, 20)), "PNG", exif=exif),
    }
    folder = folder_of(tmp_path, files)
    run = make_run(str(tmp_path / "run"), {"source": "image_folder", "path": str(folder)}, list(range(4)), {})
    pictures = open_pictures([folder])
    wide, tall, turned, turned_png = (pictures.picture(run, sample) for sample in range(4))
    assert (wide.media_type, Image.open(io.BytesIO(wide.data)).size) == ("image/png", (2048, 41))
    assert (tall.media_type, Image.open(io.BytesIO(tall.data)).size) == ("image/jpeg", (2048, 1707))
    assert tuple(pixels_of(wide.data)[20, 1000]) == (10, 200, 30)
    # Every browser turns a JPEG by itself; of a PNG that is not certain.
    assert turned.data == files["c.jpg"]
    assert Image.open(io.BytesIO(turned_png.data)).size == (20, 30)


def test_picture__damaged_gone_or_another_image_than_was_listed(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures
) -> None:
    run, folder = folder_run
    pictures = open_pictures([folder])
    path = file_of(run, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with refused("unreadable-image"):
        pictures.picture(run, 1)
    path.write_bytes(encode(photo(99), "PNG"))
    with refused("unreadable-image") as another:
        pictures.picture(run, 1)
    assert "another image" in str(another.value)
    path.unlink()
    with refused("unreadable-image"):
        pictures.picture(run, 1)
    path.write_bytes(whole)
    assert pictures.picture(run, 1).data == whole


def parquet_source(folder: Path) -> dict[str, Any]:
    images = [encode(photo(n), "PNG") for n in range(6)]
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 3}), folder / "a.parquet", row_group_size=2)
    return {"source": "parquet", "path": str(folder / "a.parquet")}


def pixel_source(folder: Path) -> dict[str, Any]:
    images = tensor_column(np.stack([photo(n) for n in range(6)]))
    folder.mkdir()
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 3}), folder / "a.parquet")
    return {"source": "parquet", "path": str(folder)}


def tar_source(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for n in range(6):
            for name, data in ((f"{n}.png", encode(photo(n), "PNG")), (f"{n}.cls", str(n % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return {"source": "tar", "path": str(folder)}


def list_source(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.png").write_bytes(encode(photo(n), "PNG"))
    lines = [f"{n}.png,{n % 2}" for n in range(6)]
    (folder / "list.csv").write_text("\n".join(["uri,label", *lines]) + "\n", encoding="utf-8")
    return {"source": "list", "path": str(folder / "list.csv")}


@pytest.mark.parametrize("make", [parquet_source, pixel_source, tar_source, list_source])
def test_picture__of_every_kind_of_source(
    tmp_path: Path, open_pictures: OpenPictures, make: Callable[[Path], dict[str, Any]]
) -> None:
    data = make(tmp_path / "data")
    run = make_run(str(tmp_path / "run"), data, [0, 2, 3], {})
    pictures = open_pictures([tmp_path / "data"])
    manifest = pq.read_table(tmp_path / "run/pool/manifest/part-00000.parquet")
    for sample in (0, 2, 3):
        original = manifest["row"][sample].as_py()
        np.testing.assert_array_equal(pixels_of(pictures.picture(run, sample).data), photo(original))
    with refused("outside-roots"):
        open_pictures([tmp_path / "elsewhere"]).picture(run, 0)


def idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_picture__of_idx_files(tmp_path: Path, open_pictures: OpenPictures) -> None:
    folder = tmp_path / "fashion"
    folder.mkdir()
    images = photo(0, (5, 28, 28))
    for stem in ("train", "t10k"):
        idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(5, dtype=np.uint8))
    run = make_run(str(tmp_path / "run"), {"source": "fashion_mnist", "path": str(folder)}, [4], {4: [2]})
    pictures = open_pictures([folder])
    for sample in (4, 2):
        np.testing.assert_array_equal(pixels_of(pictures.picture(run, sample).data), images[sample])


def test_picture__of_a_whole_export_needs_no_pool(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures
) -> None:
    run, _ = folder_run
    LabelBook(run).append(pa.table({"sample_id": [0], "label": ["0"], "round": [0]}), "ann")
    export_queries(run, open_source(source_spec(run.config())), "csv", round_index=0)
    pictures = open_pictures(["/nowhere"])
    for sample in (1, 0):
        assert pictures.picture(run, sample).data == file_of(run, sample).read_bytes()
    # Cut off, an export may hold half a picture.
    (Path(run.uri) / "rounds/0000/export-csv/queries.csv").unlink()
    with refused("outside-roots"):
        open_pictures(["/nowhere"]).picture(run, 0)


def test_picture__one_that_is_damaged_in_the_export_comes_from_the_pool(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures
) -> None:
    run, folder = folder_run
    export_queries(run, open_source(source_spec(run.config())), "csv", round_index=0)
    (Path(run.uri) / "rounds/0000/export-csv/pictures/1.png").write_bytes(b"half a pict")
    assert open_pictures([folder]).picture(run, 1).data == file_of(run, 1).read_bytes()


def test_picture__links_of_an_export_lead_into_the_roots_only(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    source = open_source(source_spec(run.config()))
    export_queries(run, source, "csv", round_index=0, settings=ExportSettings(pictures="link"))
    assert open_pictures([folder]).picture(run, 1).data == file_of(run, 1).read_bytes()
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(photo(50), "PNG"))
    link = Path(run.uri) / "rounds/0000/export-csv/pictures/1.png"
    link.unlink()
    link.symlink_to(secret)
    assert open_pictures([folder]).picture(run, 1).data == file_of(run, 1).read_bytes()


def test_picture__only_what_a_round_shows(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures
) -> None:
    run, folder = folder_run
    pictures = open_pictures([folder])
    for sample in (2, 3, 10**6, 2**52):
        with refused("unknown-sample"):
            pictures.picture(run, sample)
    ask(run, 1, [2], {2: [1, 3]})
    assert [pictures.picture(run, sample).data for sample in (2, 3)] == [
        file_of(run, sample).read_bytes() for sample in (2, 3)
    ]


def test_picture__data_that_the_config_has_elsewhere(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(folder)
    for path in (folder, inside / "../photos", inside / "link", f"file://{folder}", "s3://bucket/photos"):
        config = run.config().model_copy(
            update={"data": run.config().data.model_copy(update={"path": str(path)})}
        )
        run.write_config(config)
        with refused("outside-roots"):
            open_pictures([inside]).picture(run, 1)


@pytest.mark.parametrize("kind", ["image_folder", "list", "parquet", "tar"])
def test_picture__a_manifest_that_names_other_files(
    tmp_path: Path, open_pictures: OpenPictures, kind: str
) -> None:
    """Whoever can write a run directory may name any file of the machine in it."""
    make = {"list": list_source, "parquet": parquet_source, "tar": tar_source}.get(kind)
    folder = tmp_path / "data"
    if make is None:
        folder.mkdir()
        for n in range(6):
            (folder / f"{n}.png").write_bytes(encode(photo(n), "PNG"))
    data = make(folder) if make else {"source": "image_folder", "path": str(folder)}
    run = make_run(str(tmp_path / "run"), data, [0], {})
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode(photo(50), "PNG"))
    (folder / "link.png").symlink_to(secret)
    place = f"#0+{secret.stat().st_size}" if kind == "tar" else ""
    for uri in (f"{folder}/../secret.png", f"{secret}", f"{folder}/link.png", f"file://{secret}"):
        path = Path(run.uri) / "pool/manifest/part-00000.parquet"
        table = pq.read_table(path)
        uris = [f"{uri}{place}", *table["uri"].to_pylist()[1:]]
        table = table.set_column(1, table.schema.field("uri"), pa.array(uris))
        pq.write_table(table.set_column(6, "hash", pa.nulls(len(uris), pa.binary(16))), path)
        with refused("outside-roots"):
            open_pictures([folder]).picture(run, 0)


def test_picture__a_run_s_own_files_are_no_links(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    for name in ("pool/manifest/part-00000.parquet", "rounds/0000/queries.parquet"):
        file = Path(run.uri) / name
        moved = tmp_path / "moved.parquet"
        file.rename(moved)
        file.symlink_to(moved)
        with refused("outside-roots"):
            open_pictures([folder]).picture(run, 1)
        file.unlink()
        moved.rename(file)
    assert open_pictures([folder]).picture(run, 1)


def test_picture__a_model_of_the_user_s_own_is_never_imported(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    config = run.config()
    model = config.model.model_copy(update={"name": "no_such_package.module:network"})
    run.write_config(config.model_copy(update={"model": model}))
    assert open_pictures([folder]).picture(run, 1)


class CountingSource(Source):
    """Counts what is read of a source, and lets readers wait for each other."""

    kind = "counting"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.has_test_split = source.has_test_split
        self.read_uris: list[str] = []
        self.batches: list[int] = []
        self.go = threading.Event()

    @property
    def class_names(self) -> list[str] | None:
        return None

    def entries(self, split: Any) -> Any:
        return self._source.entries(split)

    def read(self, uris: Any, rows: Any) -> Any:
        self.batches.append(len(uris))
        self.read_uris += uris
        self.go.wait(30)
        return self._source.read(uris, rows)


def test_picture__asked_for_by_fifty_at_once_is_made_once(
    tmp_path: Path, open_pictures: OpenPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path, {f"{n:02}.tif": encode(photo(n), "TIFF") for n in range(40)})
    asked = list(range(25))
    data = {"source": "image_folder", "path": str(folder)}
    run = make_run(str(tmp_path / "run"), data, asked, {})
    sources: list[CountingSource] = []

    def counting(*arguments: Any) -> CountingSource:
        sources.append(CountingSource(GuardedSource(*arguments)))
        return sources[-1]

    monkeypatch.setattr(module, "GuardedSource", counting)
    pictures = open_pictures([folder])
    with ThreadPoolExecutor(50) as people:
        wishes = [people.submit(pictures.picture, run, sample) for sample in asked * 4]
        while not sources:
            threading.Event().wait(0.01)
        sources[0].go.set()
        found = [wish.result(30).data for wish in wishes]
    assert len(sources) == 1
    assert sorted(sources[0].read_uris) == sorted(str(file_of(run, sample)) for sample in asked)
    assert max(sources[0].batches) <= 16
    assert len(sources[0].batches) < len(asked)
    for sample, data in zip(asked * 4, found, strict=True):
        np.testing.assert_array_equal(pixels_of(data), pixels_of(file_of(run, sample).read_bytes()))


def test_picture__its_tag_and_bytes_outlive_the_server_and_the_pool(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    first = open_pictures([folder], cache=tmp_path / "kept")
    before = first.picture(run, 1)
    first.close()
    assert open_pictures([folder]).picture(run, 1) == before
    path = file_of(run, 1)
    path.unlink()
    assert open_pictures([folder], cache=tmp_path / "kept").picture(run, 1) == before
    # What another service may open is another thing.
    with refused("outside-roots"):
        open_pictures(["/nowhere"], cache=tmp_path / "kept").picture(run, 1)


def test_picture__of_a_run_that_was_begun_anew_under_its_name(
    folder_run: tuple[RunDirectory, Path], open_pictures: OpenPictures, tmp_path: Path
) -> None:
    run, folder = folder_run
    pictures = open_pictures([folder])
    assert pictures.picture(run, 1).data == file_of(run, 1).read_bytes()
    run.files.delete("")
    for path in folder.rglob("*.png"):
        path.write_bytes(encode(photo(100 + int(path.stem)), "PNG"))
    again = make_run(run.uri, {"source": "image_folder", "path": str(folder)}, [1, 3], {})
    assert pictures.picture(again, 1).data == file_of(again, 1).read_bytes()


def test_picture__sources_are_held_open_within_a_number(
    tmp_path: Path, open_pictures: OpenPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Noted(GuardedSource):
        def __init__(self, spec: Any, roots: Any) -> None:
            opened.append(spec.path)
            super().__init__(spec, roots)

    monkeypatch.setattr(module, "GuardedSource", Noted)
    runs = []
    for n in range(3):
        folder = tmp_path / f"data{n}"
        folder.mkdir()
        for sample in range(4):
            (folder / f"{sample}.png").write_bytes(encode(photo(10 * n + sample), "PNG"))
        data = {"source": "image_folder", "path": str(folder)}
        runs.append(make_run(str(tmp_path / f"runs/{n}"), data, [0, 1, 2], {}))
    pictures = open_pictures([tmp_path], most_open=2)
    for sample, expected in ((0, [0, 1, 2]), (1, [0, 1, 2] * 2)):
        for run in runs:
            pictures.picture(run, sample)
        assert opened == [str(tmp_path / f"data{n}") for n in expected]
    pictures.picture(runs[2], 2)
    assert len(opened) == 6


@pytest.fixture
def digits_run(tmp_path: Path) -> DigitsRun:
    return make_digits_run(str(tmp_path / "runs/digits"))


def test_twin__of_every_query_of_both_files(digits_run: DigitsRun, open_pictures: OpenPictures) -> None:
    pictures = open_pictures([])
    run = digits_run.directory
    for sample in digits_run.queries[1].tolist():
        found = pictures.twin(run, 1, sample)
        assert found.media_type == "image/png"
        np.testing.assert_array_equal(
            pixels_of(found.data), digits_run.twin_of(digits_run.images[sample])[..., 0]
        )
        np.testing.assert_array_equal(
            pixels_of(pictures.picture(run, sample).data), digits_run.images[sample, ..., 0]
        )


def test_twin__of_what_has_none(digits_run: DigitsRun, open_pictures: OpenPictures) -> None:
    pictures, run = open_pictures([]), digits_run.directory
    for round_index, sample in ((0, 40), (1, 40), (1, 2**52)):
        with refused("not-there"):
            pictures.twin(run, round_index, sample)
    with refused("unknown-round"):
        pictures.twin(run, 2, 40)


def test_twin__reads_the_row_groups_that_it_needs(
    digits_run: DigitsRun, open_pictures: OpenPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rows = digits_run.directory, []
    table = pa.table(
        {
            "sample_id": np.arange(64) * 2,
            "predicted_label": np.zeros(64, np.int64),
            "image": tensor_column(photo(0, (64, 128, 128, 3))),
        }
    )
    run.round(2).write_adversarial(0, table)
    file = pq.ParquetFile(Path(run.uri) / "rounds/0002/adversarial/part-00000.parquet")
    assert file.num_row_groups == 4
    read = pq.ParquetFile.iter_batches

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in read(self, *arguments, **options):
            rows.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    found = open_pictures([]).twin(run, 2, 44)
    np.testing.assert_array_equal(pixels_of(found.data), photo(0, (64, 128, 128, 3))[22])
    assert sum(rows) == 16

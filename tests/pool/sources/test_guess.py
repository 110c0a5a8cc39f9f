from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool.sources.guess import guess_kind


@pytest.mark.parametrize(
    ("files", "path", "kind"),
    [
        (["pool.json", "manifest/part-00000.parquet", "shards/00000.parquet"], "", "pool"),
        (["a.parquet", "b.pq"], "", "parquet"),
        (["train/a.parquet"], "", "parquet"),
        (["a.tar", "notes.txt"], "", "tar"),
        (["a.tar.gz"], "", "tar"),
        (["a.tar.gz"], "a.tar.gz", "tar"),
        (["cat/1.jpg", "dog/2.png"], "", "image_folder"),
        (["1.PNG", "labels.csv"], "", "image_folder"),
        ([".hidden/a.parquet", ".b.parquet", "._c.tar", "deep/er/1.webp"], "", "image_folder"),
        (["cat/pool.json", "cat/1.jpg"], "", "image_folder"),
        (["list.csv"], "list.csv", "list"),
        (["a.tar"], "a.tar", "tar"),
    ],
)
def test_guess_kind__by_what_lies_there(tmp_path: Path, files: list[str], path: str, kind: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert guess_kind(str(tmp_path / path)) == kind
    assert guess_kind((tmp_path / path).as_uri()) == kind


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"image": [b""], "uri": ["a.png"]}, "parquet"),
        ({"image": [[1, 2]], "uri": ["a.png"]}, "list"),
        ({"image": ["a.png"], "uri": ["a.png"]}, "list"),
        ({"uri": ["a.png"], "label": [1]}, "list"),
        ({"picture": [b""]}, "parquet"),
    ],
)
def test_guess_kind__parquet_with_images_or_their_uris(
    tmp_path: Path, columns: dict[str, list], kind: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert guess_kind(str(tmp_path / "x.parquet")) == kind


def test_guess_kind__parquet_whose_images_have_another_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b""], "uri": ["a"]}), tmp_path / "x.parquet")
    assert guess_kind(str(tmp_path / "x.parquet"), image_column="picture") == "parquet"


def test_guess_kind__nothing_fits(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("notes.txt", "folder/notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "text.parquet").write_text("")
    mistakes = {
        "nowhere": r"SOURCE '.*nowhere': no such file or folder; give",
        "folder": r"SOURCE '.*': no images, \.parquet or \.tar files there; give",
        "notes.txt": r"SOURCE '.*notes\.txt': no source of images; give",
        "text.parquet": r"SOURCE '.*text\.parquet': .*; give",
    }
    for name, message in mistakes.items():
        with pytest.raises(PoolError, match=message) as caught:
            guess_kind(str(tmp_path / name), field="SOURCE")
        assert "\n" not in str(caught.value)

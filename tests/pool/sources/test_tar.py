from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import Source, SourceSpec, UnreadableImage, decode, open_source
from dm2at_ray.pool.sources.tar_index import DamagedTarError, tar_samples

from ..conftest import encode, pattern

PNGS = [encode(pattern(seed), "PNG") for seed in range(8)]


def tar_bytes(*members: tuple[str, bytes], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, *members: tuple[str, bytes], **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(*members, **options))
    return path


def _open(path: Path | str, **fields: object) -> Source:
    return open_source(SourceSpec(kind="tar", path=str(path), test_fraction=0.0, **fields))


def _entries(source: Source, split: str = "pool") -> pa.Table:
    return pa.concat_tables(source.tables(split))


def _labels(source: Source, split: str = "pool") -> list[int | None]:
    return _entries(source, split).column("label").to_pylist()


def _read(source: Source, *places: int) -> list[bytes | UnreadableImage]:
    """Images of the pool by their place in it."""
    table = _entries(source).take(list(places))
    return source.read(table.column("uri").to_pylist(), table.column("row").to_pylist())


def test_tar__folder_is_listed_shard_by_shard_and_read_in_any_order(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a/0.tar", *((f"{seed}.png", PNGS[seed]) for seed in range(3)))
    second = write_tar(tmp_path / "b.tar", *((f"{seed}.png", PNGS[seed]) for seed in range(3, 8)))
    (tmp_path / "notes.txt").write_text("no shard")
    source = _open(tmp_path)
    table = _entries(source)
    shards = [uri.rpartition("#")[0] for uri in table.column("uri").to_pylist()]
    assert shards == [str(first)] * 3 + [str(second)] * 5
    assert table.column("row").to_pylist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert _read(source, 6, 0, 7, 2, 0) == [PNGS[6], PNGS[0], PNGS[7], PNGS[2], PNGS[0]]
    assert source.class_names is None


def test_tar__a_worker_reads_by_the_uri_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", ("0.png", PNGS[0]), ("1.png", PNGS[1]))
    table = _entries(_open(path))
    monkeypatch.setattr(tarfile, "TarFile", None)  # no header is looked at
    uris, rows = (table.column(name).to_pylist() for name in ("uri", "row"))
    assert _open(path).read(uris[::-1], rows[::-1]) == [PNGS[1], PNGS[0]]


@pytest.mark.parametrize(
    ("suffix", "labels"),
    [
        ("cls", (b"1", b" 0\n")),
        ("json", (b'{"label": 1, "id": 7}', b'{"label": "0"}')),
        ("txt", (b"1\n", b"0")),
    ],
)
def test_tar__labels_by_number(tmp_path: Path, suffix: str, labels: tuple[bytes, bytes]) -> None:
    members = [(f"0.{suffix}", labels[0]), ("0.png", PNGS[0]), ("1.png", PNGS[1]), (f"1.{suffix}", labels[1])]
    source = _open(write_tar(tmp_path / "a.tar", *members))
    assert source.class_names == ["0", "1"]
    assert _labels(source) == [1, 0]
    assert _labels(_open(tmp_path, class_names=("ape", "bee"))) == [1, 0]
    assert _labels(_open(tmp_path, label_column=None)) == [None, None]


def test_tar__labels_by_name_and_none(tmp_path: Path) -> None:
    members = [
        ("0.png", PNGS[0]),
        ("0.cls", b"dog"),
        ("1.png", PNGS[1]),
        ("2.png", PNGS[2]),
        ("2.cls", b"ape"),
    ]
    members += [("3.png", PNGS[3]), ("3.cls", b""), ("4.png", PNGS[4]), ("4.cls", b"-1")]
    source = _open(write_tar(tmp_path / "a.tar", *members))
    assert source.class_names == ["ape", "dog"]
    assert _labels(source) == [1, None, 0, None, None]
    assert _labels(_open(tmp_path, class_names=("dog", "ape"))) == [0, None, 1, None, None]


def test_tar__json_field_is_the_label_column(tmp_path: Path) -> None:
    notes = [{"kind": "b"}, {"kind": None}, ["kind"], {"kind": {}}, {"label": "x"}]
    members = [(f"{place}.json", json.dumps(note).encode()) for place, note in enumerate(notes)]
    members = sorted([*members, ("5.json", b"{damaged"), *((f"{seed}.png", PNGS[seed]) for seed in range(6))])
    assert _labels(_open(write_tar(tmp_path / "a.tar", *members), label_column="kind")) == [0] + [None] * 5


def test_tar__key_ends_at_the_first_dot_of_the_name(tmp_path: Path) -> None:
    members = [("v1.0/a.png", PNGS[0]), ("v1.0/a.seg.png", PNGS[7]), ("v1.0/a.cls", b"3")]
    members += [("v1.0/b.PNG", PNGS[1]), ("v2.0/b.cls", b"4"), ("./c.jpeg", PNGS[2]), ("./c.cls", b"5")]
    source = _open(write_tar(tmp_path / "a.tar", *members))
    assert _labels(source) == [3, None, 5]
    assert _read(source, 0, 1, 2) == PNGS[:3]


def test_tar__keys_that_come_again_are_other_samples(tmp_path: Path) -> None:
    members = [("0.png", PNGS[0]), ("0.cls", b"0"), ("0.png", PNGS[1]), ("0.cls", b"1"), ("1.png", PNGS[2])]
    source = _open(write_tar(tmp_path / "a.tar", *members, ("0.png", PNGS[3])))
    assert _labels(source) == [0, 1, None, None]
    assert _read(source, 1, 3) == [PNGS[1], PNGS[3]]


def test_tar__what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    members = [("notes.md", b"#"), ("0.cls", b"1"), ("._1.png", PNGS[7]), ("1.png", PNGS[1]), ("2.mp4", b"")]
    assert _read(_open(write_tar(tmp_path / "a.tar", *members)), 0) == [PNGS[1]]
    assert len(_entries(_open(tmp_path))) == 1


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar__formats_and_long_names(tmp_path: Path, tar_format: int) -> None:
    folder = "d" * 90 + "/" + "e" * 30 + "/"
    if tar_format != tarfile.USTAR_FORMAT:
        folder = folder * 3 + "ß/"
    members = [
        (f"{folder}{seed}.{suffix}", data)
        for seed in range(2)
        for suffix, data in (("png", PNGS[seed]), ("cls", b"7"))
    ]
    source = _open(
        write_tar(tmp_path / "a.tar", *members, tar_format=tar_format), class_names=tuple("abcdefgh")
    )
    assert _labels(source) == [7, 7]
    assert _read(source, 1, 0) == [PNGS[1], PNGS[0]]


def test_tar__names_lead_nowhere_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNGS[7])
    path = tmp_path / "shards" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("../../outside.png", "/absolute.png"):
            info = tarfile.TarInfo(name)
            info.size = len(PNGS[0])
            tar.addfile(info, io.BytesIO(PNGS[0]))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{int(kind)}.png")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    source = _open(path)
    images = _read(source, 0, 1, 2, 3)
    assert images[:2] == [PNGS[0], PNGS[0]]
    for link in images[2:]:
        with pytest.raises(UnreadableImage, match="empty file"):
            decode(link, 16, 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_tar__one_bad_member_never_hides_the_others(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", ("0.png", PNGS[0]), ("1.png", b""), ("2.png", b"junk"), ("3.png", PNGS[3])
    )
    fine, empty, junk, other = _read(_open(path), 0, 1, 2, 3)
    assert (fine, empty, junk, other) == (PNGS[0], b"", b"junk", PNGS[3])


@pytest.mark.parametrize("cut", [1, 511, 700])
def test_tar__what_lies_behind_damage_is_one_entry_set_aside(tmp_path: Path, cut: int) -> None:
    data = bytearray(tar_bytes(*((f"{seed}.png", PNGS[seed]) for seed in range(4))))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        third = tar.getmembers()[2].offset
    if cut == 700:
        del data[third + cut :]  # within the image
    elif cut == 511:
        del data[third + cut :]  # within the header
    else:
        data[third : third + 100] = b"\xff" * 100
    (tmp_path / "a.tar").write_bytes(data)
    write_tar(tmp_path / "b.tar", ("9.png", PNGS[7]))
    source = _open(tmp_path)
    images = _read(source, *range(len(_entries(source))))
    assert images[:2] == PNGS[:2]
    assert images[-1] == PNGS[7]
    assert 1 <= len(images[2:-1]) <= 2
    assert all(isinstance(image, UnreadableImage) for image in images[2:-1])
    assert "damaged" in images[-2].reason


def test_tar__shard_that_has_become_shorter(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", ("0.png", PNGS[0]), ("1.png", PNGS[1]))
    table = _entries(_open(path))
    path.write_bytes(path.read_bytes()[:600])
    source = _open(path)
    uris = [*table.column("uri").to_pylist(), f"{path}#0", f"{path}#-1+5", "/else.tar#0+1", f"{path}x#0+1"]
    images = source.read(uris, [0] * len(uris))
    assert [image.reason for image in images] == [
        "the tar shard ends within this image",
        "the tar shard ends within this image",
        "no place in a tar shard",
        "no place in a tar shard",
        "not below data.path or data.test_path",
        "not below data.path or data.test_path",
    ]
    path.unlink()
    (gone,) = _open(path).read(uris[:1], [0])
    assert gone.reason == "no such shard"


def test_tar__headers_alone_are_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 20)
    path = write_tar(tmp_path / "a.tar", *((f"{seed}.png", noise) for seed in range(8)))
    read = 0

    class Counted(io.RawIOBase):
        def __init__(self) -> None:
            self._file = path.open("rb", buffering=0)

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, *place: int) -> int:
            return self._file.seek(*place)

        def readinto(self, buffer: bytearray) -> int:
            nonlocal read
            count = self._file.readinto(buffer)
            read += count
            return count

    samples = list(tar_samples(Counted(), "label", read_ahead=8192))
    assert [sample.size for sample in samples] == [1 << 20] * 8
    assert read < 8 * 3 * 8192


@pytest.mark.parametrize("size", [-1536, 1 << 40], ids=["back to itself", "endless"])
def test_tar__pax_sizes_that_lie(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for seed in range(3):
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(PNGS[seed])
            if seed == 1:
                info.pax_headers = {"size": str(size)}
            tar.addfile(info, io.BytesIO(PNGS[seed]))
    source = _open(path)
    images = _read(source, *range(len(_entries(source))))
    assert images[0] == PNGS[0]
    assert isinstance(images[-1], UnreadableImage)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_samples__damage_anywhere_is_found_or_does_no_harm(tar_format: int) -> None:
    members = [("x" * 120 + ".png", PNGS[0]), ("1ß.png", PNGS[1]), ("1ß.cls", b"2"), ("3.png", PNGS[3])]
    whole = tar_bytes(*members, tar_format=tar_format)
    assert [sample.label for sample in tar_samples(pa.BufferReader(whole), "label", 8192)] == [
        None,
        "2",
        None,
    ]
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        data = bytearray(whole)
        block = int(rng.integers(0, len(data) // 512)) * 512
        data[block + int(rng.integers(0, 512))] = int(rng.integers(0, 256))
        data[block + int(rng.integers(124, 136))] = int(rng.integers(0, 256))  # where a header has its size
        header = bytes(data[block : block + 148]) + b" " * 8 + bytes(data[block + 156 : block + 512])
        data[block + 148 : block + 156] = f"{sum(header):06o}\0 ".encode()
        try:
            assert len(list(tar_samples(pa.BufferReader(data), "label", 8192))) <= 4
        except DamagedTarError:
            found += 1
    assert found > 40


def test_tar_samples__header_extension_that_claims_the_memory() -> None:
    data = bytearray(tar_bytes(("x" * 200 + ".png", PNGS[0])))
    assert data[156:157] == tarfile.GNUTYPE_LONGNAME
    data[124:136] = b"77777777777\x00"  # a name of 8 GiB
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\x00 ".encode()
    with pytest.raises(DamagedTarError, match="a header of 8589934592 bytes"):
        list(tar_samples(pa.BufferReader(data), "label", 8192))


def test_tar__test_path_has_the_classes_of_the_pool(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool.tar", ("0.png", PNGS[0]), ("0.cls", b"b"), ("1.png", PNGS[1]), ("1.cls", b"a"))
    test = write_tar(tmp_path / "test.tar", ("0.png", PNGS[2]), ("0.cls", b"b"), ("1.png", PNGS[3]))
    source = _open(tmp_path / "pool.tar", test_path=str(test))
    assert _labels(source, "test") == [1]
    table = _entries(source, "test")
    assert source.read(table.column("uri").to_pylist(), [0]) == [PNGS[2]]


def test_tar__mistakes_name_the_field_the_value_and_the_mend(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    packed = gzip.compress(tar_bytes(("0.png", PNGS[0])))
    for name in ("packed/a.tar.gz", "disguised.tar"):
        (tmp_path / name).write_bytes(packed)
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    write_tar(tmp_path / "wrong.tar", ("0.png", PNGS[0]), ("0.cls", b"cow"))
    (tmp_path / "nothing").mkdir()
    mistakes = {
        "packed": r"data\.path '.*a\.tar\.gz': compressed.*gunzip",
        "disguised.tar": r"data\.path '.*disguised\.tar': compressed.*gunzip",
        "text.tar": r"data\.path '.*text\.tar': not a tar file; replace",
        "empty.tar": r"data\.path '.*empty\.tar': not a tar file; replace",
        "nowhere": r"data\.path '.*nowhere': no such file or folder; give",
        "nothing": r"data\.path '.*nothing': no \.tar files there; give",
        "wrong.tar": r"data\.label_column 'label': label 'cow' is none of the 2 classes, in .*wrong",
    }
    for name, message in mistakes.items():
        with pytest.raises(PoolError, match=message) as caught:
            _entries(_open(tmp_path / name, class_names=("ape", "bee")))
        assert "\n" not in str(caught.value)

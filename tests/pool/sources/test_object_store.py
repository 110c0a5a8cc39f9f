"""Every source that can lie in an object store, in stores: servers in processes of their own."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import PoolError
from dm2at_ray.pool import (
    Manifest,
    Pool,
    Source,
    SourceSpec,
    UnreadableImage,
    check_part,
    open_source,
    part_name,
)
from dm2at_ray.pool.location import Location
from dm2at_ray.pool.sources.guess import guess_kind
from dm2at_ray.store.files import Files

from ..conftest import encode, pattern
from .test_tar import write_tar

PNGS = [encode(pattern(seed), "PNG") for seed in range(6)]
LABELS = ["dog", "ape", "ape", "dog", "ape", "dog"]
PATHS = {"parquet": "parquet", "tar": "tar", "image_folder": "folder", "list": "list.csv"}
SECRETS = ("the-secret-of-the-store", "the-key")


def _fill(root: Path) -> Path:
    """Six images four times, so that all sources have the same."""
    for path, places in (("parquet/a.parquet", slice(0, 4)), ("parquet/b c.parquet", slice(4, 6))):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"image": PNGS[places], "label": LABELS[places]}), root / path, row_group_size=2
        )
    members = [
        (f"{n}.{end}", data)
        for n in range(6)
        for end, data in (("png", PNGS[n]), ("cls", LABELS[n].encode()))
    ]
    write_tar(root / "tar/0.tar", *members[:6])
    write_tar(root / "tar/1.tar", *members[6:])
    for n, label in enumerate(LABELS):
        path = root / "folder" / label / f"{n} #%41.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNGS[n])
    return root


def _with_list(bucket: Any, root: Path) -> None:
    named = [f"folder/{label}/{n} #%41.png" for n, label in enumerate(LABELS)]
    named[1] = f"{_plain(bucket)}/pools/{named[1]}"
    lines = ["uri,label", *(f"{uri},{label}" for uri, label in zip(named, LABELS, strict=True))]
    (root / "list.csv").write_text("\n".join(lines))


def _plain(bucket: Any) -> str:
    """The bucket's address as entries have it: without who asks."""
    return f"{bucket.uri.partition('://')[0]}://{bucket.name}"


def _put_all(bucket: Any, root: Path) -> Any:
    _with_list(bucket, _fill(root))
    bucket.put_folder(root, "pools")
    return bucket


@pytest.fixture
def filled(bucket: Any, tmp_path: Path) -> Any:
    return _put_all(bucket, tmp_path / "pools")


@pytest.fixture
def any_filled(any_bucket: Any, tmp_path: Path) -> Any:
    """Each store in turn."""
    return _put_all(any_bucket, tmp_path / "pools")


def _open(kind: str, path: str, **fields: Any) -> Source:
    return open_source(SourceSpec(kind=kind, path=path, test_fraction=0.0, **fields))


def _all(source: Source) -> tuple[pa.Table, list[bytes]]:
    table = pa.concat_tables(source.tables("pool"))
    places = list(range(table.num_rows))[::-1]
    backwards = table.take(places)
    images = source.read(backwards.column("uri").to_pylist(), backwards.column("row").to_pylist())
    return table, images[::-1]


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("where", ["environment", "uri"])
def test_object_store__sources_are_what_they_are_on_a_disk(
    any_filled: Any, tmp_path: Path, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{any_filled.uri}/pools/{PATHS[kind]}"
    if where == "uri":
        monkeypatch.delenv(any_filled.variable)
        path += f"?endpoint_override={any_filled.address}&scheme=http"
    source = _open(kind, path)
    table, images = _all(source)
    local = _open(kind, str(tmp_path / "pools" / PATHS[kind])) if kind != "list" else source
    expected, _ = _all(local)
    assert source.class_names == ["ape", "dog"]
    assert table.drop(["uri"]) == expected.drop(["uri"])
    order = [1, 2, 4, 0, 3, 5] if kind == "image_folder" else range(6)
    assert images == [PNGS[n] for n in order]
    assert guess_kind(path) == kind
    for uri in table.column("uri").to_pylist():
        assert uri.startswith(f"{_plain(any_filled)}/pools/")
        assert "?" not in uri
        assert not any(secret in uri for secret in SECRETS)


@pytest.mark.parametrize("kind", PATHS)
def test_object_store__what_is_gone_is_set_aside(any_filled: Any, kind: str) -> None:
    source = _open(kind, f"{any_filled.uri}/pools/{PATHS[kind]}")
    uri = pa.concat_tables(source.tables("pool")).column("uri")[0].as_py()
    gone = (
        uri.replace("/pools/", "/pools/gone/")
        if kind == "list"
        else uri.replace(f"/{PATHS[kind]}/", f"/{PATHS[kind]}/gone/")
    )
    there, not_there = source.read([uri, gone], [0, 0])
    assert isinstance(there, bytes)
    assert isinstance(not_there, UnreadableImage)


def test_object_store__manifest_and_pool(any_filled: Any) -> None:
    any_filled.put("pools/folder/ape/broken.png", PNGS[0][:60])
    uri = f"{any_filled.uri}/run"
    source = _open("image_folder", f"{any_filled.uri}/pools/folder")
    files = Files.at(f"{uri}/pool/manifest")
    for index, table in enumerate(source.tables("pool")):
        files.write_table(part_name(index), check_part(source, table, 0, 16, 3))
    pool = Pool(Manifest.from_uri(f"{uri}/pool/manifest"), source, 16, 3)
    assert pool.rejected_ids().tolist() == [3]
    assert (pool.read(pa.array([6, 0]).to_numpy()) == [pattern(5), pattern(1)]).all()
    for data in any_filled.objects().values():
        assert not any(secret.encode() in data for secret in SECRETS)


def test_location__secrets_stay_out_of_uris_tasks_and_words(bucket: Any) -> None:
    with pytest.raises(PoolError, match=r"data\.path s3://.*AWS_ACCESS_KEY_ID") as caught:
        Location.of(f"s3://{SECRETS[1]}:{SECRETS[0]}@{bucket.name}/x")
    with pytest.raises(PoolError) as signed:
        Location.of(f"abfs://box@account.dfs.core.windows.net/x?sig={SECRETS[0]}")
    for error in (caught.value, signed.value):
        assert not any(secret in str(error) for secret in SECRETS)
        assert "\n" not in str(error)
    # What goes to another machine with a task: each takes the credentials of its own environment.
    sent = pickle.dumps(Location.of(f"s3://{bucket.name}/x").filesystem)
    assert not any(secret.encode() in sent for secret in SECRETS)
    assert Location.of("gs://anonymous@bucket/x").path == "bucket/x"


def _one_quick_line(source: Source, seconds: float = 30) -> str:
    began = time.monotonic()
    with pytest.raises(PoolError) as caught:
        list(source.tables("pool"))
    assert time.monotonic() - began < seconds
    assert "\n" not in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    return str(caught.value)


@pytest.mark.parametrize("kind", PATHS)
def test_object_store__no_such_bucket_or_folder(any_filled: Any, kind: str) -> None:
    missing = any_filled.uri.replace(any_filled.name, f"no-such-{any_filled.name}")
    for path in (f"{missing}/x.csv", f"{any_filled.uri}/nothing.csv"):
        line = _one_quick_line(_open(kind, path), seconds=5)
        assert line.startswith(f"data.path {path.replace('anonymous@', '')!r}: no such")


@pytest.mark.parametrize("kind", PATHS)
def test_object_store__wrong_key(filled: Any, kind: str) -> None:
    source = _open(kind, f"s3://{filled.name}/pools/{PATHS[kind]}")
    table = pa.concat_tables(source.tables("pool"))
    filled.check_keys(True)
    try:
        line = _one_quick_line(_open(kind, f"s3://{filled.name}/pools/{PATHS[kind]}"), seconds=5)
        assert line.startswith(f"data.path 's3://{filled.name}/pools/{PATHS[kind]}': ")
        assert "ACCESS_DENIED" in line
        # Nothing is set aside for a key that has expired in the middle of the work.
        fresh = _open(kind, f"s3://{filled.name}/pools/{PATHS[kind]}")
        with pytest.raises(PoolError, match="takes the credentials"):
            fresh.read(table.column("uri").to_pylist(), table.column("row").to_pylist())
    finally:
        filled.check_keys(False)


def test_object_store__key_that_expires_while_a_shard_is_open(filled: Any) -> None:
    source = _open("tar", f"s3://{filled.name}/pools/tar")
    table, _ = _all(source)
    filled.check_keys(True)
    try:
        with pytest.raises(PoolError, match="takes the credentials"):
            source.read(table.column("uri").to_pylist(), table.column("row").to_pylist())
    finally:
        filled.check_keys(False)


def test_object_store__nobody_listens(filled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    source = _open("image_folder", f"s3://{filled.name}/pools/folder")
    assert "connect" in _one_quick_line(source)
    with pytest.raises(PoolError, match=r"1\.png' cannot be read: .*connect"):
        source.read([f"s3://{filled.name}/pools/folder/ape/1.png"] * 40, [0] * 40)

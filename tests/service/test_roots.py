from __future__ import annotations

from pathlib import Path

import pytest

from dm2at_ray.service.roots import Roots


@pytest.mark.parametrize(
    ("uri", "held"),
    [
        ("s3://bucket/images", True),
        ("s3://bucket/images/", True),
        ("s3://bucket/images/a/1.jpg", True),
        ("s3://bucket/imagesmore/1.jpg", False),
        ("s3://bucket/images/../secret", False),
        ("s3://bucket/images/%2e%2e/secret", False),
        ("s3://bucket/images/./a", False),
        ("s3://bucket", False),
        ("s3://other/images/1.jpg", False),
        ("gs://bucket/images/1.jpg", False),
        ("s3://key@bucket/images/1.jpg", False),
        ("s3://bucket/images?endpoint_override=evil.example.org", False),
        ("hdfs://name:9000/data/x", True),
        ("hdfs://name/data/x", False),
        ("s3://minio/images/1?endpoint_override=store:9000", True),
        ("s3://minio/images/1", False),
        ("http://bucket/images", False),
        ("", False),
        ("/images", False),
        ("s3://[/images", False),
    ],
)
def test_hold__in_stores(uri: str, held: bool) -> None:
    roots = Roots(["s3://bucket/images", "hdfs://name:9000/data", "s3://minio?endpoint_override=store:9000"])
    assert roots.hold(uri) is held


def test_hold_file__a_store_s_key_is_taken_as_it_is_written() -> None:
    roots = Roots(["s3://bucket/images?endpoint_override=store:9000"])
    assert roots.hold_file("s3://bucket/images/what?#+%2e.jpg")
    assert not roots.hold_file("s3://bucket/other/1.jpg")
    assert not roots.hold_file("s3://bucket/images/../other/1.jpg")
    assert not roots.hold_file("/bucket/images/1.jpg")


def test_hold__on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-not"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
    (root / "in").symlink_to(root / "a")
    (root / "out").symlink_to(outside)
    (tmp_path / "other-name").symlink_to(root)
    monkeypatch.chdir(root)
    roots = Roots([str(root)])
    inside = [
        root,
        root / "a/b.jpg",
        root / "in/b",
        root / "a/../in",
        "a",
        "./a/x",
        tmp_path / "other-name/a",
    ]
    assert all(roots.hold(str(path)) for path in [*inside, f"file://{root}/a", f"file://localhost{root}"])
    lies = [tmp_path, outside, root / "out", root / "out/x", root / "../root-not", "..", "~", "/", "a\0b"]
    lies += [f"file://{outside}", f"file://host{root}", f"file://{root}/%2e%2e/x", f"file://{root}#x"]
    assert not any(roots.hold(str(path)) for path in lies)


def test_hold__no_roots_hold_nothing() -> None:
    assert not Roots([]).hold("/")
    assert not Roots([""]).hold("/x")
    assert Roots(["/"]).hold("/etc/passwd")


def test_plus__holds_both() -> None:
    roots = Roots(["/a"]).plus("/b")
    assert [roots.hold(path) for path in ("/a/x", "/b/x", "/c/x")] == [True, True, False]

"""What of a working directory is sent to a cluster."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import dm2at_ray
from dm2at_ray.errors import RunError
from dm2at_ray.submission import package
from dm2at_ray.submission.package import CONFIG_NAME, pack, packed_files

CODE = {path.as_posix() for path, _ in packed_files(Path(dm2at_ray.__file__).parent)}


def write(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text or name)


def names_in(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def own_files(path: Path) -> set[str]:
    return {name for name in names_in(path) if not name.startswith("dm2at_ray/")}


def test_pack__takes_what_no_ignore_file_names_at_any_level(tmp_path: Path) -> None:
    write(
        tmp_path, "nets.py", "lib/deep/net.py", "data/a.png", "lib/notes.txt", "lib/deep/notes.txt", "big.bin"
    )
    (tmp_path / ".gitignore").write_text("/data/\n*.bin\n")
    (tmp_path / "lib" / ".rayignore").write_text("notes.txt\n")
    pack(tmp_path, "", tmp_path / "out.zip", excludes=["out.zip"])
    assert own_files(tmp_path / "out.zip") == {"nets.py", "lib/deep/net.py", CONFIG_NAME}


def test_pack__of_no_directory_is_the_config_and_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "nets.py", "secret.txt")
    monkeypatch.chdir(tmp_path)
    pack(None, "name: mine", tmp_path / "out.zip")
    assert names_in(tmp_path / "out.zip") == {CONFIG_NAME, *(f"dm2at_ray/{name}" for name in CODE)}
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read(CONFIG_NAME) == b"name: mine"


def test_pack__takes_a_file_that_an_ignore_file_takes_back_in(tmp_path: Path) -> None:
    write(tmp_path, "a.bin", "keep.bin")
    (tmp_path / ".gitignore").write_text("*.bin\n!keep.bin\n")
    pack(tmp_path, "", tmp_path / "out.zip", excludes=["*.zip"])
    assert own_files(tmp_path / "out.zip") == {"keep.bin", CONFIG_NAME}


def test_pack__leaves_out_hidden_files_caches_environments_and_runs(tmp_path: Path) -> None:
    write(tmp_path, "net.py", ".env", ".git/config", ".venv/bin/python", "venv/bin/python", "x.pyc")
    write(tmp_path, "lib/__pycache__/net.cpython-311.pyc", "lib/.netrc", "dm2at.egg-info/PKG-INFO")
    write(
        tmp_path, "runs/quickstart/config.yaml", "runs/quickstart/status.json", "runs/quickstart/report.html"
    )
    pack(tmp_path, "", tmp_path / "out.zip", excludes=["*.zip"])
    assert own_files(tmp_path / "out.zip") == {"net.py", CONFIG_NAME}


def test_pack__never_takes_the_file_with_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "net.py", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    pack(tmp_path, "", tmp_path / "out.zip", excludes=["*.zip"])
    assert own_files(tmp_path / "out.zip") == {"net.py", CONFIG_NAME}


def test_pack__does_not_follow_links_to_folders(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "images/1.png")
    write(tmp_path / "here", "net.py")
    (tmp_path / "here" / "images").symlink_to(tmp_path / "elsewhere" / "images")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "gone").symlink_to(tmp_path / "nothing")
    pack(tmp_path / "here", "", tmp_path / "out.zip")
    assert own_files(tmp_path / "out.zip") == {"net.py", CONFIG_NAME}


def test_pack__adds_the_installed_code_where_there_is_no_checkout(tmp_path: Path) -> None:
    write(tmp_path / "mine", "net.py")
    pack(tmp_path / "mine", "", tmp_path / "out.zip")
    sent = {name.removeprefix("dm2at_ray/") for name in names_in(tmp_path / "out.zip")}
    assert sent == CODE | {"net.py", CONFIG_NAME}
    assert {"__main__.py", "monitoring/report.html.j2"} <= CODE


def test_pack__takes_the_code_of_a_checkout_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "dm2at_ray/__init__.py", "configs/mine.yaml", text="# changed")
    pack(tmp_path, "", tmp_path / "out.zip", excludes=["*.zip"])
    assert names_in(tmp_path / "out.zip") == {"dm2at_ray/__init__.py", "configs/mine.yaml", CONFIG_NAME}
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("dm2at_ray/__init__.py") == b"# changed"


def test_pack__puts_the_config_in_from_wherever_it_came(tmp_path: Path) -> None:
    write(tmp_path / "mine", "net.py")
    pack(tmp_path / "mine", "name: tiny\n", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read(CONFIG_NAME) == b"name: tiny\n"


def test_pack__gives_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, "b.py", "a.py", "run.sh", text="same")
        (tmp_path / name / "run.sh").chmod(0o755)
    first, second = (pack(tmp_path / name, "c", tmp_path / f"{name}.zip") for name in ("one", "two"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.files, first.size) == (len(names_in(first.path)), first.path.stat().st_size)
    with zipfile.ZipFile(first.path) as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o111
        assert not archive.getinfo("a.py").external_attr >> 16 & 0o111


def test_pack__too_large_names_the_largest_and_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine", "net.py")
    (tmp_path / "mine" / "weights.bin").write_bytes(bytes(range(256)) * 4096)
    monkeypatch.setattr(package, "LIMIT_BYTES", 200_000)
    with pytest.raises(RunError, match=r"--exclude or a \.rayignore file \(the largest: weights\.bin"):
        pack(tmp_path / "mine", "", tmp_path / "out.zip")


def test_pack__of_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        pack(tmp_path / "nothing", "", tmp_path / "out.zip")

"""The working directory of a submitted run, as one ZIP file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ray._private.thirdparty.pathspec import PathSpec  # The one that `ray job submit` goes by.

import dm2at_ray
from dm2at_ray.errors import RunError

CONFIG_NAME = ".dm2at/config.yaml"
"""Where the run's config lies in the package; hidden files are never packed, so nothing else can be there."""

IGNORE_FILES = (".gitignore", ".rayignore")
NEVER_PACKED = (".*", "__pycache__/", "*.py[co]", "*.egg-info/", "node_modules/", "venv/")
"""Version control, environments, caches, and the hidden files that secrets are kept in."""

RUN_MARKS = ("config.yaml", "status.json")
"""A folder with both is a run directory."""

LIMIT_BYTES = 512 * 2**20
"""What Ray takes in one package."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODULE = "dm2at_ray"


@dataclass(frozen=True)
class Package:
    """A packed working directory.

    Attributes:
        path: The ZIP file; the same content always gives the same bytes, so it is uploaded once.
        files: How many files are in it.
        size: Its bytes.
    """

    path: Path
    files: int
    size: int


def pack(working_dir: Path | None, config_yaml: str, target: Path, excludes: Sequence[str] = ()) -> Package:
    """Pack what a run needs from a working directory, with its config and this package.

    Left out is what `.gitignore` and `.rayignore` files name, at every level, all hidden files, caches,
    virtual environments, run directories, and folders behind symbolic links. Where the working directory is
    no checkout of dm2at_ray, the installed one is added, so that the cluster runs what the user has.

    Args:
        working_dir: The directory; None for nothing but the config and this package.
        config_yaml: The run's config, which may come from anywhere.
        target: The ZIP file to write.
        excludes: More patterns to leave out, as in a `.gitignore`.

    Raises:
        RunError: It is no directory, or too large.
    """
    sources: dict[str, Path] = {}
    if working_dir is not None:
        if not working_dir.is_dir():
            raise RunError(f"--working-dir {working_dir}: no such directory; give one")
        sources = {name.as_posix(): path for name, path in packed_files(working_dir, excludes)}
    if f"{_MODULE}/__init__.py" not in sources:
        code = Path(dm2at_ray.__file__).parent
        sources |= {f"{_MODULE}/{name}": path for name, path in packed_files(code)}
    _check_size(sources, working_dir)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            _add(archive, name, sources[name].read_bytes(), os.access(sources[name], os.X_OK))
        _add(archive, CONFIG_NAME, config_yaml.encode(), executable=False)
    size = target.stat().st_size
    if size > LIMIT_BYTES:
        raise _too_large(working_dir, size, sources)
    return Package(target, len(sources) + 1, size)


def packed_files(root: Path, excludes: Sequence[str] = ()) -> Iterator[tuple[PurePosixPath, Path]]:
    """Names and paths of the files of a directory that are packed."""
    own = PathSpec.from_lines("gitwildmatch", [*NEVER_PACKED, *excludes])
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    secret = Path(token).expanduser().absolute() if token else None
    ignored: dict[Path, list[tuple[Path, PathSpec]]] = {}
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        specs = ignored[here] = [*ignored.get(here.parent, []), *_ignore_specs(here)]

        def is_packed(path: Path, suffix: str = "", specs: list[tuple[Path, PathSpec]] = specs) -> bool:
            return not any(
                spec.match_file(path.relative_to(base).as_posix() + suffix)
                for base, spec in [(root, own), *specs]
            )

        subfolders[:] = sorted(
            name
            for name in subfolders
            if is_packed(here / name, "/") and not (here / name).is_symlink() and not _is_run(here / name)
        )
        for name in sorted(files):
            path = here / name
            if is_packed(path) and path.is_file() and path.absolute() != secret:
                yield PurePosixPath(path.relative_to(root).as_posix()), path


def _ignore_specs(folder: Path) -> list[tuple[Path, PathSpec]]:
    files = [folder / name for name in IGNORE_FILES]
    return [
        (folder, PathSpec.from_lines("gitwildmatch", file.read_text(errors="replace").splitlines()))
        for file in files
        if file.is_file()
    ]


def _is_run(folder: Path) -> bool:
    return all((folder / mark).is_file() for mark in RUN_MARKS)


def _add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(entry, data)


def _check_size(sources: dict[str, Path], working_dir: Path | None) -> None:
    """Refuse at once what cannot be packed in any useful time; images and weights hardly shrink."""
    total = sum(path.stat().st_size for path in sources.values())
    if total > 4 * LIMIT_BYTES:
        raise _too_large(working_dir, total, sources)


def _too_large(working_dir: Path | None, size: int, sources: dict[str, Path]) -> RunError:
    largest = sorted(sources, key=lambda name: sources[name].stat().st_size)[-3:]
    return RunError(
        f"--working-dir {working_dir}: {size / 2**20:,.0f} MiB are more than the {LIMIT_BYTES // 2**20} that "
        f"Ray takes; leave out what the run does not need by --exclude or a .rayignore file "
        f"(the largest: {', '.join(reversed(largest))})"
    )

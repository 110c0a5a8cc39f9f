"""Rows in a file of JSON lines, which a study that was killed goes on from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from dm2at_ray.bench.trial import TrialRow
from dm2at_ray.errors import RunError


def read_rows(path: Path | None) -> list[TrialRow]:
    """Read the rows of a file; none of one that is not there. Half a line at the end was cut off: it is left.

    Raises:
        RunError: a line is not a row.
    """
    if path is None or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(TrialRow(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"out={path}: line {number} is no row of this command; name another file"
            ) from error
    return rows


def add_row(path: Path | None, row: TrialRow) -> None:
    """Add a row to a file, or to none, in the place of half a line at its end."""
    if path is None:
        return
    whole = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(whole.rfind(b"\n") + 1)
        file.seek(0, 2)
        file.write(row_line(row).encode() + b"\n")


def row_line(row: TrialRow) -> str:
    """A row as one line of JSON."""
    return json.dumps(dataclasses.asdict(row), allow_nan=False)

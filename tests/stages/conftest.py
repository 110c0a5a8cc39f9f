from __future__ import annotations

from pathlib import Path

import pytest

from .digits_run import DigitsRun, make_digits_run


@pytest.fixture
def digits_run(tmp_path: Path) -> DigitsRun:
    return make_digits_run(str(tmp_path / "digits"))

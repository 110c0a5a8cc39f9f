from __future__ import annotations

from pathlib import Path

import pytest

from .asked_run import AskedRun, make_asked_run


@pytest.fixture
def asked_run(tmp_path: Path) -> AskedRun:
    return make_asked_run(str(tmp_path / "digits"))

"""One cluster of several nodes for the module, and one run on it that nothing has disturbed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..integration.conftest import pytest_runtest_call, pytest_runtest_setup, pytest_runtest_teardown
from .nodes import Nodes, cluster, require

__all__ = ["pytest_runtest_call", "pytest_runtest_setup", "pytest_runtest_teardown"]


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head that does no work and two workers of one CPU."""
    require()
    with cluster(tmp_path_factory.mktemp("nodes")) as started:
        yield started

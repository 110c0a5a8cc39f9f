"""One cluster of several nodes for the session; a limit for every phase of a test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from ..integration.conftest import limited
from .nodes import Nodes, cluster, require

PHASE_SECONDS = 1200
"""Ten times what the longest takes on two cores of its own."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from limited(item, PHASE_SECONDS))


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head that does no work and two workers of one CPU."""
    require()
    with cluster(tmp_path_factory.mktemp("nodes")) as started:
        yield started

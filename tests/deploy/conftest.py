"""What the deployment tests share: the tools, and the manifests as kustomize builds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
OVERLAYS = ("cpu", "gpu", "spot")
BUILDS = tuple(f"{overlay}/{kind}" for overlay in OVERLAYS for kind in ("cluster", "job", "service"))

Object = dict[str, Any]


@cache
def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.fixture(scope="session")
def lint() -> Callable[..., None]:
    """`lint("yamllint", "--strict", "deploy")`: a tool in the repository's root has no objection."""

    def run(name: str, *arguments: str) -> None:
        tool = _tool(name)
        assert tool, f"{name} is not installed: make install-dev brings it"
        ended = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    return run


@cache
def _build(path: str) -> tuple[Object, ...]:
    if _tool("kustomize"):
        command = ["kustomize", "build"]
    elif _tool("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl (1.22 or later) is installed, and pip has neither")
    ended = subprocess.run([*command, str(KUBERAY / path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, f"kustomize warns: {ended.stderr}"
    return tuple(yaml.safe_load_all(ended.stdout))


class Build:
    """The objects of one overlay.

    Args:
        name: Its folder below deploy/kuberay/overlays.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects = _build(f"overlays/{name}")

    def all(self, kind: str) -> list[Object]:
        """The objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only object of a kind (and name)."""
        (found,) = [each for each in self.all(kind) if name in (None, each["metadata"]["name"])]
        return found

    @property
    def ray(self) -> Object:
        """The spec of the Ray cluster: the RayCluster's, or what the RayJob makes one of."""
        jobs = self.all("RayJob")
        return jobs[0]["spec"]["rayClusterSpec"] if jobs else self.one("RayCluster")["spec"]

    @property
    def groups(self) -> list[Object]:
        """Head and worker groups."""
        return [self.ray["headGroupSpec"], *self.ray["workerGroupSpecs"]]

    @property
    def pods(self) -> list[Object]:
        """The pod templates of all objects."""
        sets = [each["spec"]["template"] for each in self.all("StatefulSet") + self.all("Deployment")]
        return [group["template"] for group in self.groups] + sets

    @property
    def config(self) -> str:
        """The config that the pods mount."""
        return self.one("ConfigMap")["data"]["run.yaml"]


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Build:
    """Each overlay, as a cluster that stays, as a job and as a cluster with the service, in turn."""
    return Build(request.param)


@pytest.fixture(params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Build:
    """Each overlay as a cluster that stays."""
    return Build(f"{request.param}/cluster")


@pytest.fixture(params=OVERLAYS)
def job(request: pytest.FixtureRequest) -> Build:
    """Each overlay as a job."""
    return Build(f"{request.param}/job")


@pytest.fixture(params=OVERLAYS)
def service(request: pytest.FixtureRequest) -> Build:
    """Each overlay as a cluster that stays, with the service beside it."""
    return Build(f"{request.param}/service")


@pytest.fixture
def built() -> Callable[[str], Build]:
    """One overlay by its name."""
    return Build


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    """`promtool("check", "rules", file)`: what it says when all is well; a failure of the test otherwise."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on the PATH: Debian's package `prometheus` has it")

    def call(*arguments: object) -> str:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call

"""What a process has to load to show metrics or progress, seen in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

HEAVY = ("ray", "torch", "pydantic", "matplotlib", "rich", "prometheus_client", "jinja2", "numpy")


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("snapshot", set()),
        ("metrics", {"prometheus_client"}),
        ("dashboards.grafana", set()),
        ("prometheus.rules", set()),
        ("prometheus.client", set()),
        ("push", {"prometheus_client"}),
        ("progress", {"rich"}),
        ("tables", {"rich"}),
        ("report", {"rich", "matplotlib", "numpy", "jinja2"}),
    ],
)
def test_import__loads_no_more_than_it_needs(module: str, needs: set[str]) -> None:
    assert loaded_by(f"dm2at_ray.monitoring.{module}") == needs

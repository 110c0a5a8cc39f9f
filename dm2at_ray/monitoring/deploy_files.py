"""The files of `deploy/prometheus` and `deploy/grafana` that are made from typed rules and panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dm2at_ray.monitoring.dashboards import DASHBOARDS
from dm2at_ray.monitoring.dashboards.grafana import dashboard_json
from dm2at_ray.monitoring.prometheus.config import (
    RAY_TARGETS,
    pod_monitors,
    prometheus_config,
    prometheus_rule,
)
from dm2at_ray.monitoring.prometheus.rules import rule_groups

MADE = "# Made by `dm2at monitor files`; change dm2at_ray/monitoring instead.\n"

RULES = "prometheus/dm2at.rules.yml"
DRIVER_TARGETS = "/etc/prometheus/dm2at/*.json"


def deploy_files() -> dict[str, str]:
    """Path below `deploy/` -> text of the file."""
    monitors = "---\n".join(_yaml(monitor) for monitor in pod_monitors())
    files = {
        RULES: rules_yaml(),
        "prometheus/prometheus.yml": MADE
        + _yaml(prometheus_config([RAY_TARGETS], [DRIVER_TARGETS], "dm2at.rules.yml")),
        "prometheus/kubernetes/podmonitors.yaml": MADE + "---\n" + monitors,
        "prometheus/kubernetes/prometheusrule.yaml": MADE + "---\n" + _yaml(prometheus_rule(rule_groups())),
        "prometheus/kubernetes/kustomization.yaml": MADE
        + "---\n"
        + _yaml(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["podmonitors.yaml", "prometheusrule.yaml"],
            }
        ),
        "grafana/provisioning/datasources/prometheus.yaml": MADE
        + _yaml(datasources("http://localhost:9090")),
        "grafana/provisioning/dashboards/dm2at.yaml": MADE
        + _yaml(dashboard_provider("/var/lib/grafana/dashboards/dm2at")),
    }
    for dashboard in DASHBOARDS:
        name = dashboard.uid.removeprefix("dm2at-")
        files[f"grafana/dashboards/{name}.json"] = dashboard_json(dashboard)
    return files


def rules_yaml() -> str:
    """The rules file of Prometheus."""
    return MADE + _yaml({"groups": rule_groups()})


def datasources(prometheus: str) -> dict[str, Any]:
    """Grafana's provisioning of one Prometheus."""
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "type": "prometheus",
                "uid": "prometheus",
                "access": "proxy",
                "url": prometheus,
                "isDefault": True,
                "jsonData": {"timeInterval": "10s"},
            }
        ],
    }


def dashboard_provider(folder: str) -> dict[str, Any]:
    """Grafana's provisioning of the dashboards in a folder."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "dm2at",
                "folder": "dm2at",
                "type": "file",
                "allowUiUpdates": False,
                "options": {"path": folder, "foldersFromFilesStructure": False},
            }
        ],
    }


def write_deploy_files(directory: Path) -> list[Path]:
    """Write them all below a directory, `deploy` in this repository."""
    written = []
    for name, text in deploy_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


class _Dumper(yaml.SafeDumper):
    """Writes what has several lines as a block, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Take each value for itself."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the items of lists, as linters want them."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)

"""Prometheus's files: as the package makes them, understood by promtool, and each alert proven to fire."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dm2at_ray.monitoring.deploy_files import deploy_files
from dm2at_ray.monitoring.prometheus.config import (
    DRIVER_PORT,
    PORT_NAME,
    SERVICE_PORT_NAME,
    pod_monitors,
    prometheus_config,
)
from dm2at_ray.monitoring.prometheus.rules import ALERTS, RECORDINGS

from .conftest import DEPLOY

PROMETHEUS = DEPLOY / "prometheus"
UNIT_TESTS = yaml.safe_load((PROMETHEUS / "dm2at.rules.test.yml").read_text())["tests"]


@pytest.mark.parametrize("name", sorted(deploy_files()))
def test_file__is_what_the_package_makes(name: str) -> None:
    assert (DEPLOY / name).read_text(encoding="utf-8") == deploy_files()[name], (
        "run `dm2at monitor files deploy`"
    )


def test_rules__promtool_understands_them(promtool: Callable[..., str]) -> None:
    said = promtool("check", "rules", "--lint-fatal", PROMETHEUS / "dm2at.rules.yml")
    assert f"{len(ALERTS) + len(RECORDINGS)} rules found" in said


def test_rules__their_unit_tests_pass(promtool: Callable[..., str]) -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "dm2at.rules.test.yml")


def test_rules__a_unit_test_can_fail(promtool: Callable[..., str], tmp_path: Path) -> None:
    for name in ("dm2at.rules.yml", "dm2at.rules.test.yml"):
        (tmp_path / name).write_text((PROMETHEUS / name).read_text())
    rules = tmp_path / "dm2at.rules.yml"
    rules.write_text(rules.read_text().replace("> 1800", "> 18000"))
    with pytest.raises(AssertionError, match="Dm2atRoundStalled"):
        promtool("test", "rules", tmp_path / "dm2at.rules.test.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert__is_proven_to_fire_and_to_be_silent_and_says_what_to_do(alert: Any) -> None:
    cases = [
        case
        for test in UNIT_TESTS
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert.name
    ]
    fired = [bool(case["exp_alerts"]) for case in cases]
    # A node's disk: one node that does not fire stands beside those that do.
    assert True in fired
    assert False in fired or alert.name == "Dm2atNodeDiskFilling"
    assert alert.runbook.endswith(".")
    assert "\n" not in alert.runbook


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.record)
def test_recording__is_proven_to_have_data(recording: Any) -> None:
    cases = [case for test in UNIT_TESTS for case in test.get("promql_expr_test", ())]
    assert any(case["expr"].startswith(recording.record) and case["exp_samples"] for case in cases)


def test_config__promtool_understands_it(promtool: Callable[..., str]) -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert "prometheus.yml is valid" in said


def test_config__a_gateway_keeps_the_labels_of_what_was_pushed(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    config = prometheus_config([], [], str(PROMETHEUS / "dm2at.rules.yml"), gateway="127.0.0.1:9091")
    config["scrape_configs"] = config["scrape_configs"][-1:]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert "is valid" in promtool("check", "config", tmp_path / "prometheus.yml")
    assert config["scrape_configs"][0]["honor_labels"] is True


def test_rule_of_kubernetes__has_the_same_groups() -> None:
    rule = yaml.safe_load((PROMETHEUS / "kubernetes" / "prometheusrule.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load((PROMETHEUS / "dm2at.rules.yml").read_text())


def test_pod_monitors__know_the_ports_of_kuberay_of_the_driver_and_of_the_service() -> None:
    by_name = {monitor["metadata"]["name"]: monitor["spec"] for monitor in pod_monitors()}
    ports = {
        name: [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] for name, spec in by_name.items()
    }
    assert ports == {
        "ray-head": ["metrics", "as-metrics", "dash-metrics"],
        "ray-workers": ["metrics"],
        "dm2at-drivers": [PORT_NAME],
        "dm2at-service": [SERVICE_PORT_NAME],
    }
    assert by_name["ray-head"]["selector"] == {"matchLabels": {"ray.io/node-type": "head"}}
    # Names of container ports are at most 15 characters long.
    assert all(len(port) <= 15 for names in ports.values() for port in names)


def test_driver_port__is_the_config_s_own() -> None:
    from dm2at_ray.config_sections import MonitoringConfig

    assert MonitoringConfig().port == DRIVER_PORT

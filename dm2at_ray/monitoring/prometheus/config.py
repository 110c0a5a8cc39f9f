"""Prometheus's configuration: its own scrape file, and the monitors of the operator on Kubernetes."""

from __future__ import annotations

from typing import Any

SCRAPE_INTERVAL = "10s"
"""As often as Ray's nodes renew their values."""

RAY_TARGETS = "/tmp/ray/prom_metrics_service_discovery.json"
"""Where a Ray with a dashboard lists its nodes."""

DRIVER_PORT = 9464
PORT_NAME = "dm2at-metrics"

SERVICE_PORT_NAME = "http"
SERVICE_SECRET = "dm2at-service-scrape"
"""Has a token of the service's with the role `read`, without which it tells nobody its metrics."""

DROPPED = "ray_data_.*"
"""Series by dataset and operator, thousands on a cluster that lives long (ray-project/ray#65029)."""


def prometheus_config(
    ray_files: list[str],
    driver_files: list[str],
    rules: str,
    *,
    interval: str = SCRAPE_INTERVAL,
    gateway: str | None = None,
) -> dict[str, Any]:
    """What `prometheus.yml` says.

    Args:
        ray_files: Lists of Ray's nodes, as file service discovery reads them.
        driver_files: Lists of drivers.
        rules: The file of rules.
        interval: Between two scrapes and two looks at the rules.
        gateway: host:port of a Pushgateway to scrape too.
    """
    scrapes: list[dict[str, Any]] = [
        {
            "job_name": "dm2at",
            "file_sd_configs": [{"files": driver_files, "refresh_interval": "5s"}],
            # A driver that comes back elsewhere goes on with the series of its run.
            "metric_relabel_configs": [{"action": "labeldrop", "regex": "instance"}],
        },
        {
            "job_name": "ray",
            "file_sd_configs": [{"files": ray_files, "refresh_interval": "10s"}],
            "metric_relabel_configs": [
                {"source_labels": ["__name__"], "regex": DROPPED, "action": "drop"},
            ],
        },
    ]
    if gateway:
        scrapes.append(
            {
                "job_name": "pushgateway",
                "honor_labels": True,
                "static_configs": [{"targets": [gateway]}],
            }
        )
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "scrape_configs": scrapes,
    }


def pod_monitors() -> list[dict[str, Any]]:
    """PodMonitors of the Prometheus operator: Ray's nodes by KubeRay's ports, the driver, and the service."""
    cluster = {
        "action": "replace",
        "sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"],
        "targetLabel": "ray_io_cluster",
    }
    drop = {"sourceLabels": ["__name__"], "regex": DROPPED, "action": "drop"}

    def monitor(name: str, selector: dict[str, Any], endpoints: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "dm2at"}},
            "spec": {
                "jobLabel": "app.kubernetes.io/part-of",
                "selector": selector,
                "podMetricsEndpoints": endpoints,
            },
        }

    def endpoint(port: str, *more: dict[str, Any]) -> dict[str, Any]:
        return {
            "port": port,
            "interval": SCRAPE_INTERVAL,
            "relabelings": [cluster],
            "metricRelabelings": [drop, *more],
        }

    head = {"matchLabels": {"ray.io/node-type": "head"}}
    workers = {"matchLabels": {"ray.io/node-type": "worker"}}
    all_nodes = {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}
    # The driver may come back in another pod; its series are told apart by their run alone.
    one_driver = {"action": "labeldrop", "regex": "pod|instance|container|endpoint"}
    service = {
        "matchLabels": {"app.kubernetes.io/part-of": "dm2at", "app.kubernetes.io/component": "service"}
    }
    with_token = {"type": "Bearer", "credentials": {"name": SERVICE_SECRET, "key": "token"}}
    return [
        monitor("ray-head", head, [endpoint(p) for p in ("metrics", "as-metrics", "dash-metrics")]),
        monitor("ray-workers", workers, [endpoint("metrics")]),
        monitor("dm2at-drivers", all_nodes, [endpoint(PORT_NAME, one_driver)]),
        monitor(
            "dm2at-service",
            service,
            [{"port": SERVICE_PORT_NAME, "interval": SCRAPE_INTERVAL, "authorization": with_token}],
        ),
    ]


def prometheus_rule(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The rules as the operator's PrometheusRule."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "dm2at", "labels": {"app.kubernetes.io/part-of": "dm2at"}},
        "spec": {"groups": groups},
    }

"""What the manifests promise: no root, no secret, no open door, and a cluster that a run fits."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import typer
import yaml
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.dashboard import http_server_agent, http_server_head

from dm2at_ray.cli import app
from dm2at_ray.config import Config
from dm2at_ray.preflight import check_resources

ROOT = Path(__file__).parents[2]
HEAD_PORTS = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "metrics": 8080,
    "as-metrics": 44217,
    "dash-metrics": 44227,
    "dm2at-metrics": 9464,
}
WORKER_PORTS = {"metrics": 8080, "dm2at-metrics": 9464}


def containers(pod: Any) -> list[Any]:
    return pod["spec"]["containers"] + pod["spec"].get("initContainers", [])


def ports(container: Any) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container["ports"]}


def config_of(build: Any, tmp_path: Path) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(build.config)
    return Config.load(path)


def test_pods__have_few_rights(build: Any) -> None:
    autoscaler = build.ray["autoscalerOptions"]
    for pod in build.pods:
        rights = pod["spec"]["securityContext"]
        assert rights["runAsNonRoot"] is True
        assert rights["runAsUser"] > 0
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["spec"].keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not [each for each in pod["spec"].get("volumes", []) if "hostPath" in each]
    for each in [*(container for pod in build.pods for container in containers(pod)), autoscaler]:
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods__ask_for_what_they_need(build: Any) -> None:
    resources = [container["resources"] for pod in build.pods for container in containers(pod)]
    for each in [*resources, build.ray["autoscalerOptions"]["resources"]]:
        assert {"cpu", "memory"} <= each["requests"].keys()
        assert "memory" in each["limits"]
        # An API server refuses GPUs of which more are allowed than asked for.
        gpus = [{name: n for name, n in each[kind].items() if "/" in name} for kind in ("requests", "limits")]
        assert gpus[0] == gpus[1]


def test_pods__images_are_pinned(build: Any) -> None:
    for container in [container for pod in build.pods for container in containers(pod)]:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+(-\w+)?", container["image"]), container["image"]


def test_pods__are_probed(build: Any) -> None:
    for pod in build.pods:
        for container in pod["spec"]["containers"]:
            assert {"livenessProbe", "readinessProbe"} <= container.keys()


def test_probes__ask_what_ray_answers_without_a_token(build: Any) -> None:
    dashboard = inspect.getsource(http_server_head)
    for group in build.groups:
        (container,) = group["template"]["spec"]["containers"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[name]["httpGet"]
            if get["port"] == "dashboard":
                assert f'"{get["path"]}",' in dashboard
            else:
                assert get["port"] == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
                assert get["path"] in http_server_agent.PUBLIC_EXACT_PATHS


def test_secrets__are_only_referred_to(build: Any) -> None:
    assert not build.all("Secret")
    for pod in build.pods:
        for container in containers(pod):
            for variable in container.get("env", []):
                if variable == {"name": "RAY_AUTH_MODE", "value": "token"}:
                    continue
                if re.search("TOKEN|PASSWORD|SECRET|KEY|AUTH", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_token__is_asked_for(build: Any) -> None:
    assert build.ray["authOptions"] == {"mode": "token", "secretName": "dm2at-ray-token"}


def test_head__does_no_work(build: Any) -> None:
    assert build.ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert build.ray["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert [each["rayStartParams"].get("num-cpus") for each in build.ray["workerGroupSpecs"]] == [None]


def test_ports__are_declared(build: Any) -> None:
    head, *workers = build.groups
    assert ports(head["template"]["spec"]["containers"][0]) == HEAD_PORTS
    for worker in workers:
        assert ports(worker["template"]["spec"]["containers"][0]) == WORKER_PORTS
    assert {group["rayStartParams"]["metrics-export-port"] for group in build.groups} == {"8080"}


def test_config__serves_metrics_where_they_are_scraped(build: Any, tmp_path: Path) -> None:
    config = config_of(build, tmp_path)
    assert config.monitoring.host == "0.0.0.0"
    assert config.monitoring.port == WORKER_PORTS["dm2at-metrics"]


def test_cluster__has_one_version_of_ray(build: Any) -> None:
    base = re.search(r"^ARG BASE=rayproject/ray:([\d.]+)-", dockerfile(), re.MULTILINE)
    assert base
    assert build.ray["rayVersion"] == base[1]


def dockerfile() -> str:
    return (ROOT / "deploy/docker/Dockerfile").read_text()


def test_autoscaler__is_v2(build: Any) -> None:
    assert build.ray["enableInTreeAutoscaling"] is True
    assert build.ray["autoscalerOptions"]["version"] == "v2"
    for group in build.groups:
        # KubeRay refuses anything else with v2, and says so only in an event.
        assert group["template"]["spec"]["restartPolicy"] == "Never"
    for worker in build.ray["workerGroupSpecs"]:
        assert 1 <= worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]


def test_config__fits_the_workers_that_are_there_at_first(build: Any, tmp_path: Path) -> None:
    (workers,) = build.ray["workerGroupSpecs"]
    one = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    there = {
        "CPU": workers["minReplicas"] * float(one["cpu"]),
        "GPU": workers["minReplicas"] * float(one.get("nvidia.com/gpu", 0)),
    }
    config = config_of(build, tmp_path)
    check_resources(config, there)
    # And what is asked for at most fits the workers that there can be.
    for count, cpus, gpus in (
        (config.compute.actors, config.compute.cpus_per_actor, config.compute.gpus_per_actor),
        (config.training.workers, config.compute.cpus_per_worker, config.compute.gpus_per_worker),
    ):
        assert count * cpus <= workers["maxReplicas"] * float(one["cpu"])
        assert count * gpus <= workers["maxReplicas"] * float(one.get("nvidia.com/gpu", 0))


def test_redis__is_what_the_head_is_told(cluster: Any) -> None:
    options = cluster.ray["gcsFaultToleranceOptions"]
    service, redis = cluster.one("Service"), cluster.one("StatefulSet")
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"].items() <= redis["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] in ports(container)
    assert options["redisPassword"]["valueFrom"] == container["env"][0]["valueFrom"]
    # KubeRay refuses these beside gcsFaultToleranceOptions.
    head = cluster.ray["headGroupSpec"]
    assert "redis-password" not in head["rayStartParams"]
    variables = {each["name"] for each in head["template"]["spec"]["containers"][0].get("env", [])}
    assert not variables & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}


def test_job__has_the_cluster_of_its_overlay(job: Any, built: Any) -> None:
    spec = dict(built(job.name.replace("job", "cluster")).ray)
    del spec["gcsFaultToleranceOptions"]
    assert job.ray == spec
    assert not job.all("RayCluster") + job.all("StatefulSet") + job.all("Service")


def test_job__runs_by_the_real_command_line(job: Any) -> None:
    entrypoint = job.one("RayJob")["spec"]["entrypoint"]
    # KubeRay hands it to a shell.
    assert not re.search(r"[$`'\"\\;&|<>*?]", entrypoint)
    program, command, *arguments = shlex.split(entrypoint)
    assert program == "dm2at"
    commands = typer.main.get_command(app)
    context = commands.commands[command].make_context(command, arguments)  # type: ignore[attr-defined]
    assert command == "run"
    assert re.match(r"s3://[\w-]+/", context.params["run_dir"])
    assert str(context.params["config"]) == "/etc/dm2at/run.yaml"
    head = job.ray["headGroupSpec"]["template"]["spec"]
    (mount,) = [each for each in head["containers"][0]["volumeMounts"] if each["mountPath"] == "/etc/dm2at"]
    (volume,) = [each for each in head["volumes"] if each["name"] == mount["name"]]
    assert volume["configMap"]["name"] == job.one("ConfigMap")["metadata"]["name"]


def test_job__is_retried_and_ends_with_its_cluster(job: Any) -> None:
    spec = job.one("RayJob")["spec"]
    assert spec["backoffLimit"] >= 1
    # Kueue may suspend only jobs that do not leave their cluster behind.
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "SidecarMode"
    assert not spec.keys() & {"submitterPodTemplate", "submitterConfig", "clusterSelector"}


def test_service_accounts__only_the_head_has_a_token(build: Any) -> None:
    head, *workers = build.groups
    accounts = {each["metadata"]["name"]: each for each in build.all("ServiceAccount")}
    assert head["template"]["spec"]["serviceAccountName"] in accounts
    for worker in workers:
        assert (
            accounts[worker["template"]["spec"]["serviceAccountName"]]["automountServiceAccountToken"]
            is False
        )
        assert worker["template"]["spec"]["automountServiceAccountToken"] is False


def admitted(build: Any, labels: dict[str, str]) -> dict[int | None, list[Any]]:
    """Who may come in to a pod with these labels, by port; None is every port."""
    found: dict[int | None, list[Any]] = {}
    for policy in build.all("NetworkPolicy"):
        assert len(policy["spec"]["policyTypes"]) == 1
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        if policy["spec"]["policyTypes"] == ["Ingress"] and selector.items() <= labels.items():
            for rule in policy["spec"].get("ingress", []):
                assert rule["from"], "a rule without `from` admits everybody"
                for port in rule.get("ports", [{"port": None}]):
                    found.setdefault(port["port"], []).extend(rule["from"])
    return found


def ray_labels(build: Any, group: int, node_type: str) -> dict[str, str]:
    """A pod's labels, as KubeRay adds to them."""
    own = build.groups[group]["template"]["metadata"]["labels"]
    return {**own, "ray.io/is-ray-node": "yes", "ray.io/node-type": node_type}


def test_network__only_what_is_named_comes_in(build: Any) -> None:
    assert {} in [each["spec"]["podSelector"] for each in build.all("NetworkPolicy")], (
        "nothing denies the rest"
    )
    head = admitted(build, ray_labels(build, 0, "head"))
    worker = admitted(build, ray_labels(build, 1, "worker"))
    ours = {"app.kubernetes.io/part-of": "dm2at", "ray.io/is-ray-node": "yes"}
    among = [{"podSelector": {"matchLabels": ours}}]
    assert head.pop(None) == among
    assert worker.pop(None) == among
    jobs = head.pop(8265)
    assert {"namespaceSelector": {"matchLabels": {"dm2at/submits-jobs": "true"}}} in jobs
    # The service by its pods' own labels, where there is one.
    services = [each["spec"]["template"]["metadata"]["labels"] for each in build.all("Deployment")]
    assert [each["podSelector"]["matchLabels"] for each in jobs if "podSelector" in each] == [
        {"app.kubernetes.io/component": "kuberay-operator"},
        *services,
    ]
    prometheus = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    scraped = {number for name, number in HEAD_PORTS.items() if name.endswith("metrics")}
    assert head == dict.fromkeys(scraped, prometheus)
    assert worker == dict.fromkeys(scraped, prometheus)


def test_network__redis_answers_the_head_alone(cluster: Any) -> None:
    labels = cluster.one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert admitted(cluster, labels) == {
        6379: [
            {"podSelector": {"matchLabels": {"ray.io/node-type": "head"}}},
            {"podSelector": {"matchLabels": {"ray.io/node-type": "redis-cleanup"}}},
        ]
    }


def test_readme__names_folders_that_are_there() -> None:
    text = (ROOT / "deploy/README.md").read_text()
    named = re.findall(r"\bdeploy/[\w./-]+", text)
    assert len(named) >= 5
    for each in named:
        assert (ROOT / each).exists(), each
    overlays = re.findall(r"apply -k (\S+)", text)
    assert overlays
    for each in overlays:
        assert yaml.safe_load((ROOT / each / "kustomization.yaml").read_text())["kind"] == "Kustomization"

"""The service's manifests: the command as it is, one port everywhere, no rights, no door but those named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from starlette.testclient import TestClient

from dm2at_ray.cli import app as command_line
from dm2at_ray.config import Config
from dm2at_ray.monitoring.prometheus.config import pod_monitors
from dm2at_ray.service.app import create_app
from dm2at_ray.service.checks import ConfigChecks
from dm2at_ray.service.downloads import REPORTS_BYTES
from dm2at_ray.service.jobs import ACT_SECONDS
from dm2at_ray.service.reconciler import CLOSE_SECONDS
from dm2at_ray.service.roots import Roots
from dm2at_ray.service.server import GRACE_SECONDS
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.tokens import TokenFile, new_token
from dm2at_ray.submission.client import check_address

from .conftest import DEPLOY, KUBERAY
from .test_kueue import amount
from .test_manifests import HEAD_PORTS, admitted, ports, ray_labels
from .test_schemas import assert_valid_core

README = (DEPLOY / "README.md").read_text()
INGRESS = yaml.safe_load((KUBERAY / "components/service/ingress-example.yaml").read_text())
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def pod_of(service: Any) -> Any:
    return service.one("Deployment")["spec"]["template"]


def container_of(service: Any) -> Any:
    (container,) = pod_of(service)["spec"]["containers"]
    return container


def parse(command: list[str], arguments: list[str]) -> dict[str, Any]:
    """The options of a container, as the command itself understands them."""
    program, name = command
    assert (program, name) == ("dm2at", "serve")
    commands = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    return commands[name].make_context(name, list(arguments)).params


@pytest.fixture
def options(service: Any) -> dict[str, Any]:
    container = container_of(service)
    return parse(container["command"], container["args"])


@pytest.fixture
def client(options: dict[str, Any], tmp_path: Path) -> TestClient:
    """The application as the container makes it, on a folder of this machine."""
    tokens = tmp_path / "tokens.yaml"
    new_token(tokens, "ann", "read")
    settings = ServiceSettings(
        runs=str(tmp_path / "runs"),
        address=options["address"],
        host=options["host"],
        port=options["port"],
        tokens=tokens,
        cache=tmp_path / "cache",
    )
    return TestClient(create_app(settings))


def test_command__is_one_of_the_real_command_line(options: dict[str, Any]) -> None:
    assert options["runs"] == "s3://example-bucket/runs"
    assert options["host"] == "0.0.0.0"
    # Without tokens the service refuses such a host.
    ServiceSettings(runs=options["runs"], host=options["host"], tokens=options["tokens"])


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("--adress=http://head:8265", "No such option"),
        ("--port=eighty", "valid integer"),
        ("runs", "unexpected extra argument"),
    ],
)
def test_command__a_mistake_is_found(built: Any, mistake: str, said: str) -> None:
    container = container_of(built("cpu/service"))
    with pytest.raises(Exception, match=said):
        parse(container["command"], [*container["args"], mistake])


def test_command__asks_the_head_of_the_overlay(service: Any, options: dict[str, Any]) -> None:
    check_address(options["address"])
    address = urlsplit(options["address"])
    # KubeRay names the head's Service after the cluster.
    assert address.hostname == f"{service.one('RayCluster')['metadata']['name']}-head-svc"
    assert address.port == HEAD_PORTS["dashboard"]


def test_command__has_the_token_of_the_cluster(service: Any) -> None:
    variables = {each["name"]: each for each in container_of(service)["env"]}
    ray = service.ray["authOptions"]
    assert variables["RAY_AUTH_MODE"]["value"] == ray["mode"]
    secret = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    # The key is KubeRay's own.
    assert secret == {"name": ray["secretName"], "key": "auth_token"}


def test_runs__are_those_that_the_other_ways_begin(built: Any, service: Any, options: Any) -> None:
    entrypoint = built(service.name.replace("service", "job")).one("RayJob")["spec"]["entrypoint"]
    begun = re.findall(r"--run-dir (s3:\S+)", f"{entrypoint}\n{README}")
    assert len(begun) >= 2
    assert {place.rpartition("/")[0] for place in begun} == {options["runs"]}


def test_data__is_where_the_overlay_s_images_are(service: Any, options: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(service.config)
    data = Config.load(path).data
    roots = Roots(options["data"])
    assert [place for place in (data.path, data.test_path) if place and not roots.hold(place)] == []
    assert not roots.hold("s3://another-bucket/pool")


def test_config__of_the_overlay_is_one_that_the_service_starts(service: Any, options: Any) -> None:
    allowed = ConfigChecks(tuple(options["data"]), (), tuple(options["metrics_host"]))
    config = allowed.read(service.config, "from-a-client")
    assert config.monitoring.host == "0.0.0.0"


def test_image__is_the_head_s(service: Any) -> None:
    (head,) = service.groups[0]["template"]["spec"]["containers"]
    assert container_of(service)["image"] == head["image"]


def test_port__is_the_same_everywhere(service: Any, options: dict[str, Any]) -> None:
    container, name = container_of(service), "http"
    assert ports(container) == {name: options["port"]}
    assert [container[probe]["httpGet"]["port"] for probe in PROBES] == [name] * 3
    (port,) = service.one("Service", "dm2at-service")["spec"]["ports"]
    assert port == {"name": name, "port": options["port"], "targetPort": name}
    assert set(admitted(service, pod_of(service)["metadata"]["labels"])) == {options["port"]}
    assert re.findall(r"service/dm2at-service (\d+):(\d+)", README) == [(str(options["port"]),) * 2]


def test_probes__ask_what_is_answered_without_a_token(service: Any, client: TestClient) -> None:
    container = container_of(service)
    for probe in PROBES:
        answer = client.get(container[probe]["httpGet"]["path"])
        assert (answer.status_code, answer.text) == (200, "ok\n")
    # So the application does ask for tokens.
    assert client.get("/api/v1/runs").status_code == 401


def test_service__finds_its_pod_and_no_other(service: Any) -> None:
    selector = service.one("Service", "dm2at-service")["spec"]["selector"]
    deployment = service.one("Deployment")["spec"]
    assert selector == deployment["selector"]["matchLabels"]
    selected = [pod for pod in service.pods if selector.items() <= pod["metadata"]["labels"].items()]
    assert selected == [deployment["template"]]
    assert service.one("Service", "dm2at-service")["spec"]["type"] == "ClusterIP"


def test_deployment__never_has_two_processes(service: Any) -> None:
    deployment = service.one("Deployment")["spec"]
    assert deployment["replicas"] == 1
    # Without `rollingUpdate`, which would have the next one begin before the last has ended.
    assert deployment["strategy"] == {"type": "Recreate"}


def test_end__comes_after_what_the_server_waits_for(service: Any) -> None:
    grace = pod_of(service)["spec"]["terminationGracePeriodSeconds"]
    assert grace > GRACE_SECONDS + CLOSE_SECONDS + ACT_SECONDS


def test_pod__has_no_rights(service: Any) -> None:
    spec = pod_of(service)["spec"]
    assert spec["automountServiceAccountToken"] is False
    account = service.one("ServiceAccount", spec["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    rights = spec["securityContext"]
    assert (rights["runAsNonRoot"], rights["runAsUser"]) == (True, 1000)
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container_of(service)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_disk__what_can_be_written_is_made_for_it_and_bounded(service: Any, options: Any) -> None:
    volumes = {each["name"]: each for each in pod_of(service)["spec"]["volumes"]}
    mounts = {each["mountPath"]: each for each in container_of(service)["volumeMounts"]}
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {
        str(options["cache"]),
        "/tmp",
    }
    sizes = {
        path: amount(volumes[mounts[path]["name"]]["emptyDir"]["sizeLimit"])
        for path in (str(options["cache"]), "/tmp")
    }
    # With room for the indices of labels.
    assert sizes[str(options["cache"])] > 2 * (ServiceSettings("").cache_bytes + REPORTS_BYTES)
    assert amount(container_of(service)["resources"]["requests"]["ephemeral-storage"]) >= sum(sizes.values())


def test_variables__of_folders_name_what_can_be_written(service: Any, options: Any) -> None:
    (folder,) = [each["value"] for each in container_of(service)["env"] if each["name"] == "MPLCONFIGDIR"]
    assert Path(folder).is_relative_to(options["cache"])


def test_tokens__are_a_folder_from_a_secret(service: Any, options: Any) -> None:
    mount = {each["mountPath"]: each for each in container_of(service)["volumeMounts"]}[
        str(options["tokens"].parent)
    ]
    assert mount["readOnly"] is True
    # A file mounted by itself would stay what it was, and a token that was revoked valid.
    assert "subPath" not in mount
    (volume,) = [each for each in pod_of(service)["spec"]["volumes"] if each["name"] == mount["name"]]
    # Read by the pod's group, which Kubernetes gives such files to.
    assert volume["secret"] == {"secretName": "dm2at-service-tokens", "defaultMode": 0o440}
    assert pod_of(service)["spec"]["securityContext"]["fsGroup"] > 0
    assert f"dm2at-service-tokens --namespace dm2at --from-file={options['tokens'].name} " in README


def test_tokens__a_changed_secret_is_seen(tmp_path: Path) -> None:
    # As a kubelet lays a secret out, and exchanges it: by a link to a folder.
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
    kept = new_token(tmp_path / "one/tokens.yaml", "ann", "label")
    (tmp_path / "two/tokens.yaml").write_bytes((tmp_path / "one/tokens.yaml").read_bytes())
    revoked = new_token(tmp_path / "one/tokens.yaml", "bob", "label")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "tokens.yaml").symlink_to("..data/tokens.yaml")
    tokens = TokenFile(tmp_path / "tokens.yaml")
    assert tokens.find(revoked)
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    tokens.look()
    assert tokens.find(kept)
    assert tokens.find(revoked) is None


def test_secrets__are_made_as_the_readme_tells(service: Any) -> None:
    container = container_of(service)
    named = {each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"] if "valueFrom" in each}
    named |= {each["secretRef"]["name"] for each in container["envFrom"]}
    named |= {each["secret"]["secretName"] for each in pod_of(service)["spec"]["volumes"] if "secret" in each}
    assert named == {"dm2at-ray-token", "dm2at-storage", "dm2at-service-tokens"}
    for name in named:
        assert f"kubectl create secret generic {name} " in README


def test_network__who_comes_in(service: Any, options: dict[str, Any]) -> None:
    assert admitted(service, pod_of(service)["metadata"]["labels"]) == {
        options["port"]: [
            {"namespaceSelector": {"matchLabels": {"dm2at/asks-service": "true"}}},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
        ]
    }
    assert "dm2at/asks-service=true" in README


def test_network__where_it_goes(service: Any) -> None:
    labels = pod_of(service)["metadata"]["labels"]
    policies = [each["spec"] for each in service.all("NetworkPolicy") if "egress" in each["spec"]]
    (policy,) = policies
    assert policy["policyTypes"] == ["Egress"]
    assert policy["podSelector"]["matchLabels"] == labels
    to_head, to_anywhere = policy["egress"]
    (head,) = to_head["to"]
    assert head["podSelector"]["matchLabels"].items() <= ray_labels(service, 0, "head").items()
    assert not head["podSelector"]["matchLabels"].items() <= ray_labels(service, 1, "worker").items()
    assert to_head["ports"] == [{"port": HEAD_PORTS["dashboard"], "protocol": "TCP"}]
    assert "to" not in to_anywhere
    assert {(each["port"], each["protocol"]) for each in to_anywhere["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
        (443, "TCP"),
    }


def test_network__the_head_admits_it_to_the_job_api_alone(service: Any, built: Any) -> None:
    own = {"podSelector": {"matchLabels": pod_of(service)["metadata"]["labels"]}}
    head = admitted(service, ray_labels(service, 0, "head"))
    assert [port for port, callers in head.items() if own in callers] == [HEAD_PORTS["dashboard"]]
    # Where there is no service, nothing is opened for it.
    cluster = built(service.name.replace("service", "cluster"))
    assert own not in admitted(cluster, ray_labels(cluster, 0, "head"))[HEAD_PORTS["dashboard"]]


def test_monitor__scrapes_its_pod_with_a_token(service: Any, client: TestClient) -> None:
    labels = pod_of(service)["metadata"]["labels"]
    monitors = {each["metadata"]["name"]: each["spec"] for each in pod_monitors()}
    assert monitors["dm2at-service"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitors["dm2at-service"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports(container_of(service))
    # The operator's default path, which is not told without a token.
    assert client.get("/metrics").status_code == 401
    secret = endpoint["authorization"]["credentials"]
    made = re.search(rf"(.+) \|\n.*secret generic {secret['name']} (.+)", README)
    assert made
    assert "--role read" in made[1]
    assert f"--from-file={secret['key']}=/dev/stdin" in made[2]


def test_ingress__leads_to_the_service_by_tls(service: Any) -> None:
    assert_valid_core(INGRESS)
    target = service.one("Service", "dm2at-service")
    assert INGRESS["metadata"]["namespace"] == target["metadata"]["namespace"]
    (rule,) = INGRESS["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {
        "name": target["metadata"]["name"],
        "port": {"name": target["spec"]["ports"][0]["name"]},
    }
    assert [each["hosts"] for each in INGRESS["spec"]["tls"]] == [[rule["host"]]]
    # It is an example: nobody's host is applied with the rest.
    assert not service.all("Ingress")

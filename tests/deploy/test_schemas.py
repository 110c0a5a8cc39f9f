"""Every object that is applied is one that its API server would take: no unknown field, no wrong type."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared/kuberay-crds"
KUBERNETES = "1.34"
WITHOUT_SCHEMA = {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
"""Kueue's kinds; test_kueue.py holds what they say against the pods."""


def strict(schema: Any) -> Any:
    """A CRD's schema that refuses the fields it does not know; an API server drops them silently."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        tight["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            tight["additionalProperties"] = False
    return tight


@cache
def crd(kind: str) -> Any:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's CRDs are not there ({CRDS}): they lie beside a checkout, not in it")
    versions = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1"]
    return jsonschema.Draft202012Validator(strict(schema))


def assert_valid_custom(made: dict[str, Any]) -> None:
    assert made["apiVersion"] == "ray.io/v1"
    faults = [
        f"{'.'.join(map(str, each.absolute_path))}: {each.message}"
        for each in crd(made["kind"]).iter_errors(made)
    ]
    assert not faults


def assert_valid_core(made: dict[str, Any]) -> None:
    kubernetes_validate.validate(made, KUBERNETES, strict=True)


def test_core_kinds(build: Any) -> None:
    core = [each for each in build.objects if not each["apiVersion"].startswith(("ray.io/", "kueue."))]
    assert {"NetworkPolicy", "ServiceAccount", "Namespace", "ConfigMap"} <= {each["kind"] for each in core}
    for each in core:
        assert_valid_core(each)


def test_custom_kinds(build: Any) -> None:
    custom = [each for each in build.objects if each["apiVersion"].startswith("ray.io/")]
    assert [each["kind"] for each in custom] == ["RayJob" if build.name.endswith("job") else "RayCluster"]
    assert_valid_custom(custom[0])


def test_other_kinds__only_those_that_are_known(build: Any) -> None:
    other = {each["kind"] for each in build.objects if each["apiVersion"].startswith("kueue.")}
    assert other == (WITHOUT_SCHEMA if build.name.startswith("spot") else set())


def test_pods_of_ray__are_valid_pods(build: Any) -> None:
    # A CRD says nothing about a template's metadata, and less than Kubernetes about the rest.
    for group in build.groups:
        metadata = {"name": "ray", **group["template"].get("metadata", {})}
        assert_valid_core(
            {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(group["template"]), "metadata": metadata}
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(enableIntreeAutoscaling=True),
        lambda spec: spec["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["headGroupSpec"].update(rayStartParams={"num-cpus": 0}),
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(resource={}),
    ],
    ids=["unknown field", "unknown value", "number for a text", "unknown field of a container"],
)
def test_custom_kinds__a_mistake_is_found(built: Any, spoil: Any) -> None:
    made = copy.deepcopy(built("cpu/cluster").one("RayCluster"))
    spoil(made["spec"])
    with pytest.raises(AssertionError):
        assert_valid_custom(made)


def test_core_kinds__a_mistake_is_found(built: Any) -> None:
    made = copy.deepcopy(built("cpu/cluster").one("StatefulSet"))
    made["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_valid_core(made)

"""The queue of the spot overlay admits what the overlay asks for, each pod where it belongs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

UNITS = {"m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30}


def amount(text: str) -> Decimal:
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return Decimal(text.removesuffix(unit)) * factor
    return Decimal(text)


@pytest.fixture(params=["spot/cluster", "spot/job"])
def spot(request: pytest.FixtureRequest, built: Any) -> Any:
    return built(request.param)


@pytest.fixture
def quotas(spot: Any) -> dict[str, dict[str, Decimal]]:
    """Flavor -> resource -> quota."""
    (group,) = spot.one("ClusterQueue")["spec"]["resourceGroups"]
    for flavor in group["flavors"]:
        assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]
    return {
        flavor["name"]: {each["name"]: amount(each["nominalQuota"]) for each in flavor["resources"]}
        for flavor in group["flavors"]
    }


def requests(group: Any) -> dict[str, Decimal]:
    (container,) = group["template"]["spec"]["containers"]
    return {name: amount(text) for name, text in container["resources"]["requests"].items()}


def test_queue__is_the_one_of_the_cluster(spot: Any) -> None:
    ray = (spot.all("RayJob") + spot.all("RayCluster"))[0]
    local = spot.one("LocalQueue")
    assert ray["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["metadata"]["namespace"] == ray["metadata"]["namespace"]
    assert local["spec"]["clusterQueue"] == spot.one("ClusterQueue")["metadata"]["name"]


def test_queue__admits_an_autoscaled_cluster(spot: Any) -> None:
    ray = (spot.all("RayJob") + spot.all("RayCluster"))[0]
    assert spot.ray["enableInTreeAutoscaling"] is True
    assert ray["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"


def test_quota__is_for_flavors_that_are_there(spot: Any, quotas: Any) -> None:
    assert set(quotas) == {each["metadata"]["name"] for each in spot.all("ResourceFlavor")}


def test_quota__covers_all_workers_on_spot_nodes(spot: Any, quotas: Any) -> None:
    (workers,) = spot.ray["workerGroupSpecs"]
    for name, each in requests(workers).items():
        assert workers["maxReplicas"] * each <= quotas["dm2at-spot"][name], name


def test_quota__covers_the_head_on_lasting_nodes(spot: Any, quotas: Any) -> None:
    needed = requests(spot.ray["headGroupSpec"])
    for name, text in spot.ray["autoscalerOptions"]["resources"]["requests"].items():
        needed[name] += amount(text)
    for name, each in needed.items():
        # A share is left for the job submitter that KubeRay adds.
        assert each < quotas["dm2at-lasting"][name], name


def test_workers__go_to_spot_nodes_and_the_head_does_not(spot: Any) -> None:
    (workers,) = spot.ray["workerGroupSpecs"]
    flavor = spot.one("ResourceFlavor", "dm2at-spot")["spec"]["nodeLabels"]
    assert workers["template"]["spec"]["nodeSelector"] == flavor
    (label, value) = next(iter(flavor.items()))
    tolerated = {each["key"] for each in workers["template"]["spec"]["tolerations"]}
    assert tolerated == {label, "nvidia.com/gpu"}
    affinity = spot.ray["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": label, "operator": "NotIn", "values": [value]}]
    assert "nodeSelector" not in spot.ray["headGroupSpec"]["template"]["spec"]


def test_workers__are_gone_before_the_notice_is_over(spot: Any) -> None:
    (workers,) = spot.ray["workerGroupSpecs"]
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] <= 30

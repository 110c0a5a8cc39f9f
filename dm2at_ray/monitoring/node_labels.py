"""The ``node`` label of metrics, bounded however many nodes come and go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from dm2at_ray.monitoring.class_labels import OTHER

MAX_NODES = 256


class NodeLabels:
    """Gives the first 256 nodes a label of their own, and all further ones "other".

    Examples:
        >>> labels = NodeLabels()
        >>> labels.of("10.0.0.1")
        '10.0.0.1'
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, node: str) -> str:
        """The label of a node, the same for as long as this object lives."""
        if node not in self._known and len(self._known) >= MAX_NODES:
            return OTHER
        self._known.add(node)
        return node

    def sums(self, values: Mapping[str, int]) -> list[tuple[str, int]]:
        """Sum of the nodes' `values` under each label."""
        sums: dict[str, int] = defaultdict(int)
        for node, value in values.items():
            sums[self.of(node)] += value
        return list(sums.items())

"""Oracles, who give queries their true labels: a new one is a file here and a line in ``ORACLES``."""

from __future__ import annotations

from collections.abc import Callable

from dm2at_ray.pool.images import Pool
from dm2at_ray.pool.oracles.base import Oracle
from dm2at_ray.pool.oracles.simulated import SimulatedOracle

__all__ = ["ORACLES", "Oracle", "SimulatedOracle"]

ORACLES: dict[str, Callable[[Pool], Oracle]] = {oracle.name: oracle for oracle in (SimulatedOracle,)}

"""What the commands do with a run directory, done over HTTP with a run of a service."""

from __future__ import annotations

from dm2at_ray.remote.address import RemoteRun, is_remote

__all__ = ["RemoteRun", "is_remote"]

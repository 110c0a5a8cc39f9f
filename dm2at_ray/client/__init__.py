"""The service as seen from a program: its messages, and a client.

It needs neither torch nor Ray nor FastAPI, and loads none of them.
"""

from __future__ import annotations

from dm2at_ray.client.client import Client
from dm2at_ray.client.errors import ServiceError

__all__ = ["Client", "ServiceError"]

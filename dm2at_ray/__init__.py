"""dm2at-ray: robust active learning for image classifiers, on Ray.

Examples:
    >>> from dm2at_ray import Config
    >>> Config().attack.epsilon
    0.03137254901960784
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dm2at_ray.config import Config
    from dm2at_ray.errors import ConfigError, ModelError, PoolError, RunError, UserError
    from dm2at_ray.launch import RunResult, run

__all__ = ["Config", "ConfigError", "ModelError", "PoolError", "RunError", "RunResult", "UserError", "run"]
__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "ConfigError": "errors",
    "ModelError": "errors",
    "PoolError": "errors",
    "RunError": "errors",
    "RunResult": "launch",
    "UserError": "errors",
    "run": "launch",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `from dm2at_ray.neighbors import search` needs neither Ray nor the config.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dm2at_ray.{_HOME[name]}"), name)

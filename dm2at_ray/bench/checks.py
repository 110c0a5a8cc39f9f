"""What the settings of all benchmarks are checked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dm2at_ray.errors import ConfigError


def check_at_least(name: str, value: int, smallest: int) -> None:
    """Raise ConfigError where a number is too small."""
    if value < smallest:
        raise ConfigError(f"{name}={value} must be at least {smallest}")


def check_above_zero(name: str, value: float) -> None:
    """Raise ConfigError where a duration is not positive."""
    if not value > 0:
        raise ConfigError(f"{name}={value} must be above 0")


def check_names(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError where a name is none of the known ones."""
    for value in values:
        if value not in known:
            raise ConfigError(f"{name}={value!r} is unknown; use one of: {', '.join(known)}")


def check_device(device: str) -> None:
    """Raise ConfigError where torch cannot put a tensor there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={device!r} cannot be used ({str(error).splitlines()[0]}); use cpu"
        ) from error

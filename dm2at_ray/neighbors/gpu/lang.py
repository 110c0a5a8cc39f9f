"""Triton's names as the kernels use them; importable where there is no Triton (macOS, CPU-only torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WHY_MISSING: str | None = None
"""Why there are no kernels on this machine; None where Triton with Gluon is installed."""

try:
    import triton.language as tl
    from triton import jit
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl

    gluon_jit = gluon.jit
except ImportError as error:
    WHY_MISSING = f"Triton with Gluon is not installed ({error})"
    tl = gl = None

    def jit(function: Callable[..., Any]) -> Callable[..., Any]:
        """Leave the kernel as it is: nothing will call it."""
        return function

    gluon_jit = jit

__all__ = ["WHY_MISSING", "gl", "gluon_jit", "jit", "tl"]

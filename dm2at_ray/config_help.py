"""The documentation of the configuration, made from the fields' own docstrings."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from dm2at_ray.config import Config
from dm2at_ray.config_sections import Section


def config_help() -> str:
    """Every field with its default and its meaning, as YAML that `dm2at run` takes."""
    lines = []
    for name, field in Config.model_fields.items():
        default = field.default
        if not isinstance(default, Section):
            lines += [*_comment(field.description, ""), f"{name}: {_yaml(default)}"]
            continue
        lines += ["", *_comment(type(default).__doc__, ""), f"{name}:"]
        for inner, inner_field in type(default).model_fields.items():
            lines += [
                *_comment(inner_field.description, "  "),
                f"  {inner}: {_yaml(getattr(default, inner))}",
            ]
    return "\n".join(lines)


def _comment(text: str | None, indent: str) -> list[str]:
    return textwrap.wrap(
        " ".join((text or "").split()), 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()

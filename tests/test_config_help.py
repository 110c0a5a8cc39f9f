from __future__ import annotations

from pathlib import Path

import yaml

from dm2at_ray.config import Config
from dm2at_ray.config_help import config_help
from dm2at_ray.config_sections import Section


def test_config_help__is_a_config_of_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "help.yaml"
    path.write_text(config_help())
    assert Config.load(path) == Config()


def test_config_help__has_every_field_under_its_meaning() -> None:
    lines = config_help().splitlines()
    documented = yaml.safe_load(config_help())
    for name, field in Config.model_fields.items():
        if isinstance(field.default, Section):
            assert list(documented[name]) == list(type(field.default).model_fields)
    place = lines.index("  k: 10")
    assert lines[place - 1] == "  # Neighbours of each sample."
    assert "neighbors:" in lines


def test_config_help__fits_a_terminal() -> None:
    assert max(map(len, config_help().splitlines())) <= 100

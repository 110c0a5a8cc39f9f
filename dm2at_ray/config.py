"""The configuration of a run: one YAML file, one section per part of the system, unknown keys are errors."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from dm2at_ray.config_sections import (
    AttackConfig,
    ComputeConfig,
    DataConfig,
    EvaluationConfig,
    MixupConfig,
    ModelConfig,
    MonitoringConfig,
    NeighborsConfig,
    QueryConfig,
    Section,
    StopConfig,
    TrainingConfig,
)
from dm2at_ray.errors import ConfigError

FREE_SECTIONS = ("compute", "monitoring")
FREE_FIELDS = ("query.export", "query.sufficient")
"""What may change while a run is under way."""


class Config(Section):
    """A whole run."""

    name: str = Field("dm2at", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The run's name: its directory below `runs/` and the `run` label of its metrics."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything random in the run."""
    data: DataConfig = DataConfig()
    """The images and labels."""
    model: ModelConfig = ModelConfig()
    """The classifier."""
    query: QueryConfig = QueryConfig()
    """What is asked for."""
    neighbors: NeighborsConfig = NeighborsConfig()
    """Nearest neighbours."""
    mixup: MixupConfig = MixupConfig()
    """Mixtures."""
    attack: AttackConfig = AttackConfig()
    """Adversarial twins."""
    training: TrainingConfig = TrainingConfig()
    """Retraining."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out accuracy."""
    stop: StopConfig = StopConfig()
    """Stop rules."""
    compute: ComputeConfig = ComputeConfig()
    """Resources."""
    monitoring: MonitoringConfig = MonitoringConfig()
    """Metrics."""

    @model_validator(mode="before")
    @classmethod
    def _fill_empty_sections(cls, values: Any) -> Any:
        """Take a section whose fields are all left out, which YAML reads as null, for its defaults."""
        if not isinstance(values, dict):
            return values
        return {name: {} if value is None and _is_section(name) else value for name, value in values.items()}

    @classmethod
    def from_mapping(cls, values: dict[str, Any], origin: str = "config") -> Config:
        """Check a nested mapping.

        Args:
            values: Section name -> field name -> value.
            origin: What to call the mapping in an error (a file's name).

        Raises:
            ConfigError: One line per wrong field, with its value and the mend.
        """
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("\n".join(f"{origin}: {_explain(e)}" for e in error.errors())) from None
        config._check_together(origin)
        return config

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> Config:
        """Read a YAML file and apply `section.field=value` overrides (values are YAML too).

        Raises:
            ConfigError: The file is missing or no YAML mapping, or a field is wrong.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"config: {path} cannot be read ({reason}); give the path of a YAML file"
            ) from None
        values = _parse_yaml(text, str(path))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: not a mapping of sections; see configs/quickstart.yaml for one")
        for override in overrides or []:
            _apply_override(values, override)
        return cls.from_mapping(values, str(path))

    def with_settings(self, settings: list[str]) -> Config:
        """The same config with other values where `section.field=value` (values are YAML) says so.

        Raises:
            ConfigError: A field is wrong.
        """
        values = self.model_dump(mode="json")
        for setting in settings:
            _apply_override(values, setting)
        return type(self).from_mapping(values, "--set")

    def to_yaml(self) -> str:
        """The resolved config, every field with its value, as YAML that `load` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def _check_together(self, origin: str) -> None:
        def refuse(field: str, value: object, mend: str) -> None:
            raise ConfigError(f"{origin}: {field} = {value}: {mend}")

        if self.model.batch_size & (self.model.batch_size - 1):
            refuse("model.batch_size", self.model.batch_size, "not a power of two; use one such as 256")
        if self.neighbors.l1_weight == 0 and self.neighbors.l2_weight == 0:
            refuse("neighbors.l1_weight", 0, "l2_weight is 0 as well; give at least one of them weight")
        if self.data.source != "digits" and self.data.path is None:
            refuse("data.path", None, f"the source {self.data.source} needs one; give the path of its images")
        if self.mixup.prescreen is not None and self.mixup.space != "input":
            refuse(
                "mixup.prescreen",
                self.mixup.prescreen,
                "only has an effect with mixup.space: input; leave it out",
            )
        if self.stop.label_budget is not None and self.stop.label_budget < self.query.initial:
            refuse(
                "stop.label_budget",
                self.stop.label_budget,
                f"less than query.initial = {self.query.initial}; raise it, or ask for fewer in round 0",
            )


def differing_fields(old: Config, new: Config) -> list[str]:
    """Name the fields, as `section.field`, in which two configs differ, but for those that change no result.

    `compute` and `monitoring` say where the work runs, `query.export` and `query.sufficient` how people are
    asked, so a run may go on under other ones.
    """
    different = []
    for name in type(old).model_fields:
        if name in FREE_SECTIONS:
            continue
        a, b = getattr(old, name), getattr(new, name)
        if isinstance(a, Section):
            fields = (f for f in type(a).model_fields if f"{name}.{f}" not in FREE_FIELDS)
            different += [f"{name}.{f}" for f in fields if getattr(a, f) != getattr(b, f)]
        elif a != b:
            different.append(name)
    return different


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{origin}: not valid YAML ({reason}); mend it") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise ConfigError(
            f"--set {override}: not of the form section.field=value; write e.g. --set query.size=50"
        )
    *sections, field = path.strip().split(".")
    target = values
    for section in sections:
        if isinstance(target, dict):
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
    if not isinstance(target, dict):
        raise ConfigError(
            f"--set {override}: {'.'.join(sections)} is no section; see `dm2at config` for the fields"
        )
    target[field] = _parse_yaml(text, f"--set {override}")


def _explain(error: Any) -> str:
    """One line for one pydantic error: the field, its value and the mend."""
    location = [str(part) for part in error["loc"]]
    field = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_fields(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        return f"{field} = {error['input']!r}: unknown field; {mend}"
    if error["type"] == "model_type":
        return f"{field} = {error['input']!r}: not a section; write its fields below it, one a line"
    message = error["msg"]
    return f"{field} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _is_section(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and isinstance(field.default, Section)


def _known_fields(sections: list[str]) -> list[str]:
    model: Any = Config
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)

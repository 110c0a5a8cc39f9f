"""What the config of a run that a client sends may say: nothing that opens what the service may not."""

from __future__ import annotations

import yaml

from dm2at_ray.config import Config
from dm2at_ray.errors import ConfigError, UserError
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.roots import Roots
from dm2at_ray.service.settings import is_loopback
from dm2at_ray.uri import holds_secret

LONGEST_DETAIL = 2000
"""Characters of an answer; a refused value may be as long as the request."""
DEEPEST = 20
"""Levels of a YAML text; what it takes to read one grows with their square."""


class ConfigChecks:
    """Holds configs of clients against what the service was started with.

    Args:
        data_roots: Places of images and weights.
        models: Import paths of own models.
        metrics_hosts: Addresses beside loopback on which a driver may listen.
    """

    def __init__(
        self, data_roots: tuple[str, ...], models: tuple[str, ...], metrics_hosts: tuple[str, ...] = ()
    ) -> None:
        self._roots = Roots(data_roots)
        self._models = models
        self._metrics_hosts = metrics_hosts

    def read(self, text: str, name: str) -> Config:
        """The config in a client's YAML, as the run of this name has it.

        Raises:
            ProblemError: `bad-config` or `outside-roots`.
        """
        values = _mapping(text)
        try:
            config = Config.from_mapping({**values, "name": name})
        except ConfigError as error:
            raise ProblemError("bad-config", _bounded(error)) from None
        except ValueError:
            # Python shows no number of more than 4,300 digits, not even to refuse it.
            raise ProblemError("bad-config", "config: has a number of thousands of digits") from None
        self.check(config)
        try:
            # It loads Ray Train and torch's compiler: seconds, and a quarter of a gigabyte.
            from dm2at_ray.preflight import check_alone

            check_alone(config)
        except UserError as error:
            raise ProblemError("bad-config", _bounded(error)) from None
        return config

    def check(self, config: Config) -> None:
        """Insist that a config names nothing that the service may not open.

        Raises:
            ProblemError: `bad-config` or `outside-roots`.
        """
        for field, path in (
            ("data.path", config.data.path),
            ("data.test_path", config.data.test_path),
            ("model.weights", config.model.weights),
        ):
            if path is not None:
                self._check_place(field, path)
        if ":" in config.model.name and config.model.name not in self._models:
            raise ProblemError(
                "outside-roots",
                f"model.name = {_short(config.model.name)}: not a model that this service was started with "
                "(--model); take one of those, small_cnn or a name of torchvision's",
            )
        monitoring = config.monitoring
        if monitoring.push_gateway is not None:
            raise ProblemError(
                "bad-config",
                "monitoring.push_gateway: not for runs of this service, which would send to any address "
                "then; leave it out",
            )
        if not is_loopback(monitoring.host) and monitoring.host not in self._metrics_hosts:
            raise ProblemError(
                "bad-config",
                f"monitoring.host = {_short(monitoring.host)}: not an address that this service was started "
                "with (--metrics-host), nor this machine alone; leave it out",
            )

    def _check_place(self, field: str, path: str) -> None:
        if "://" in path and holds_secret(path):
            raise ProblemError(
                "bad-config",
                f"{field}: has a secret in it, which every log would show; give the cluster's nodes their "
                "credentials by their environment",
            )
        if "://" not in path and not path.startswith("/"):
            raise ProblemError(
                "bad-config",
                f"{field} = {_short(path)}: relative to no known folder; give an absolute path or a URI",
            )
        if not self._roots.hold(path):
            raise ProblemError(
                "outside-roots",
                f"{field} = {_short(path)}: outside the places that this service opens (--data)",
            )


def _mapping(text: str) -> dict[str, object]:
    """The sections of a YAML text, without aliases: a few lines of those stand for gigabytes."""
    try:
        _check_shape(text)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise ProblemError("bad-config", _bounded(f"config: not valid YAML ({reason}); mend it")) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ProblemError(
            "bad-config", "config: not a mapping of sections; see configs/quickstart.yaml for one"
        )
    return values


def _check_shape(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ProblemError("bad-config", "config: has a YAML alias (*name); write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ProblemError("bad-config", "config: nested too deeply; a config has two levels")


def _bounded(words: object) -> str:
    text = str(words)
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 3] + "..."


def _short(value: str) -> str:
    return repr(value[:200])

from __future__ import annotations

from typing import Any

import pytest

from dm2at_ray.errors import ConfigError
from dm2at_ray.training import TrainSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("clean_weight", 1.5),
        ("epsilon", 8.0),
        ("attack", "cw"),
        ("adversaries", "none"),
        ("checkpoint_every", 0),
    ],
)
def test_settings__names_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is {value!r}: must be "):
        TrainSettings(**{field: value})


def test_epochs_for__more_epochs_for_few_samples() -> None:
    settings = TrainSettings(epochs=3, min_steps=10, batch_size=4)
    assert settings.epochs_for(4) == 10
    assert settings.epochs_for(5) == 5  # two batches an epoch
    assert settings.epochs_for(400) == 3

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
        ("passes", "three"),
        ("attack_mode", "test"),
        ("epsilon_warmup", 1.5),
        ("grad_align", -1.0),
        ("steps", 0),
        ("ema", 1.0),
        ("precision", "fp8"),
        ("validation", -1),
        ("early_stop", 0),
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


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        (
            {"attack": "rs_fgsm"},
            "attack is 'rs_fgsm': must be fgsm where passes is 'shared'; or set passes to two",
        ),
        ({"attack_mode": "eval"}, "attack_mode is 'eval': must be train where passes is 'shared'"),
        ({"attack_label": "predicted"}, "attack_label is 'predicted': must be true where passes is 'shared'"),
        ({"adversaries": "stored"}, "adversaries is 'stored': must be fresh where passes is 'shared'"),
        ({"adversaries": "both"}, "adversaries is 'both': must be fresh where passes is 'shared'"),
        ({"compile": True, "grad_align": 0.2}, "grad_align is 0.2: must be 0 where compile is true"),
        ({"early_stop": 3, "validation": 0}, "early_stop is 3: must be none where validation is 0"),
    ],
)
def test_settings__that_do_not_go_together(chosen: dict[str, Any], error: str) -> None:
    shareable: dict[str, Any] = {"passes": "shared", "attack": "fgsm", "attack_mode": "train"}
    TrainSettings(**shareable)
    with pytest.raises(ConfigError, match=f"^{error}"):
        TrainSettings(**{**shareable, **chosen})


def test_steps_for__exactly_so_many() -> None:
    settings = TrainSettings(steps=7, batch_size=4, epochs=100)
    assert [settings.steps_for(count) for count in (3, 10, 1000)] == [7, 7, 7]
    assert [settings.epochs_for(count) for count in (3, 10, 1000)] == [7, 3, 1]


def test_epsilon_at__rises_over_its_share_of_the_steps() -> None:
    settings = TrainSettings(epsilon=0.3, epsilon_warmup=0.3)
    radii = [settings.epsilon_at(step, 10) for step in range(10)]
    assert radii == pytest.approx([0, 0.1, 0.2, *[0.3] * 7])
    assert TrainSettings(epsilon=0.3).epsilon_at(0, 10) == 0.3
    assert TrainSettings(epsilon=0.3, epsilon_warmup=1).epsilon_at(9, 10) == pytest.approx(0.27)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dm2at_ray.training import EpochReport, LabeledSet, TrainSettings, TrainState, lookout, train
from dm2at_ray.training.state import WEIGHTS

MakeModel = Callable[..., nn.Module]
MakeLabeled = Callable[..., LabeledSet]


class CutError(Exception):
    """Stands for whatever kills a worker."""


@pytest.mark.parametrize("cut_after", [1, 3, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd without momentum", "adamw"])
def test_train__cut_and_resumed_gives_the_same_bits(
    optimizer: Any, cut_after: int, tmp_path: Path, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    labeled = make_labeled(23, twins="half")
    settings = TrainSettings(
        epochs=4,
        min_steps=0,
        batch_size=8,
        learning_rate=0.005 if optimizer == "adamw" else 0.05,
        optimizer=optimizer.split()[0],
        momentum=0.0 if "without" in optimizer else 0.9,
        attack="rs_fgsm",
        adversaries="both",
        augment="flip_shift",
    )

    def cut(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        if report.epoch == cut_after:
            make_state().save(tmp_path)
            raise CutError

    uncut = make_model(batch_norm=True, dropout=True)
    expected = train(uncut, labeled, settings, seed=5, round_index=2)
    with pytest.raises(CutError):
        train(
            make_model(batch_norm=True, dropout=True),
            labeled,
            settings,
            seed=5,
            round_index=2,
            on_epoch=cut,
        )
    torch.manual_seed(99)
    resumed = make_model(batch_norm=True, dropout=True)
    nn.init.zeros_(resumed[0].weight)  # type: ignore[index, arg-type]
    result = train(resumed, labeled, settings, seed=5, round_index=2, start=TrainState.load(tmp_path))

    weights = resumed.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in uncut.state_dict().items())
    assert (result.loss, result.clean_accuracy, result.steps) == (
        expected.loss,
        expected.clean_accuracy,
        expected.steps,
    )
    assert result.images_seen == expected.images_seen


GOOD, BETTER, COLLAPSED = (0.8, 0.5, 0.5), (0.8, 0.6, 0.6), (0.9, 0.9, 0.0)
STORIES: dict[str, tuple[dict[str, Any], list[tuple[float, float, float]]]] = {
    "restore_best": ({"on_collapse": "restore_best"}, [GOOD, BETTER, COLLAPSED, GOOD, COLLAPSED, GOOD]),
    "switch_attack": ({"on_collapse": "switch_attack"}, [GOOD, COLLAPSED, BETTER, COLLAPSED, GOOD, GOOD]),
    "average": (
        {"ema": 0.6, "on_collapse": "switch_attack"},
        [GOOD, GOOD, COLLAPSED, GOOD, GOOD, GOOD],
    ),
    "early_stop": ({"early_stop": 3, "ema": 0.6}, [GOOD, BETTER, GOOD, GOOD, GOOD]),
    "steps": ({"steps": 22, "epsilon_warmup": 0.5}, [GOOD] * 6),
}


@pytest.mark.parametrize("story", STORIES)
def test_train__cut_anywhere_in_its_looks_and_resumed_gives_the_same_bits(
    story: str,
    tmp_path: Path,
    make_model: MakeModel,
    make_labeled: MakeLabeled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, script = STORIES[story]
    labeled = make_labeled(500)
    settings = TrainSettings(
        epochs=6, min_steps=0, batch_size=120, learning_rate=0.05, attack="rs_fgsm", **chosen
    )
    monkeypatch.setattr(lookout, "epochs_between_looks", lambda *_: 1)

    def follow(looks_done: int) -> None:
        rest = iter(script[looks_done:])
        monkeypatch.setattr(lookout, "measure", lambda *_, **__: next(rest))

    def keep(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        make_state().save(tmp_path / str(report.epoch))

    follow(0)
    uncut = make_model(batch_norm=True)
    expected = train(uncut, labeled, settings, seed=5, round_index=2, on_epoch=keep)
    assert expected.epochs == len(script)
    for cut_after in range(1, len(script) + 1):
        state = TrainState.load(tmp_path / str(cut_after))
        follow(cut_after)
        resumed = make_model(batch_norm=True)
        result = train(resumed, labeled, settings, seed=5, round_index=2, start=state)
        weights = resumed.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in uncut.state_dict().items())
        assert (result.stability, result.loss) == (expected.stability, expected.loss)

    kept = load_file(tmp_path / str(expected.epochs) / WEIGHTS[expected.stability.outcome])
    assert all(torch.equal(kept[name], tensor) for name, tensor in uncut.state_dict().items())


def test_train__looks_that_are_measured_resume_too(
    tmp_path: Path, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    settings = TrainSettings(epochs=8, min_steps=0, batch_size=100, learning_rate=0.05, epsilon=0.05)

    def keep(report: EpochReport, make_state: Callable[[], TrainState]) -> None:
        make_state().save(tmp_path / str(report.epoch))

    call: dict[str, Any] = {"seed": 5, "round_index": 2}
    expected = train(make_model(), make_labeled(600), settings, **call, on_epoch=keep)
    resumed = train(make_model(), make_labeled(600), settings, **call, start=TrainState.load(tmp_path / "5"))
    assert [look.epoch for look in expected.stability.looks] == [5, 8]
    assert resumed.stability == expected.stability
    assert expected.stability.looks[0].clean > 0.5


def test_state__is_safetensors_and_json(
    tmp_path: Path, make_model: MakeModel, make_labeled: MakeLabeled
) -> None:
    settings = TrainSettings(epochs=1, min_steps=0)
    train(
        make_model(),
        make_labeled(6),
        settings,
        seed=0,
        round_index=0,
        on_epoch=lambda report, make_state: make_state().save(tmp_path),
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"weights.safetensors", "optimizer.safetensors", "state.json"}


def test_state__is_a_copy(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    states: list[TrainState] = []
    settings = TrainSettings(epochs=3, min_steps=0, batch_size=4)
    train(
        make_model(),
        make_labeled(6),
        settings,
        seed=0,
        round_index=0,
        on_epoch=lambda report, make_state: states.append(make_state()),
    )
    assert [state.report.epoch for state in states] == [1, 2, 3]
    assert not torch.equal(states[0].weights["0.weight"], states[1].weights["0.weight"])


def test_state__other_model_is_refused(make_model: MakeModel, make_labeled: MakeLabeled) -> None:
    states: list[TrainState] = []
    settings = TrainSettings(epochs=1, min_steps=0)
    call: dict[str, Any] = {"seed": 0, "round_index": 0}
    train(
        make_model(),
        make_labeled(6),
        settings,
        **call,
        on_epoch=lambda report, make_state: states.append(make_state()),
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        train(make_model(batch_norm=True), make_labeled(6), settings, **call, start=states[0])

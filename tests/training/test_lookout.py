"""What follows from looks whose accuracies are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from dm2at_ray.training import CollapseError, LabeledSet, TrainResult, TrainSettings, train
from dm2at_ray.training import lookout as lookout_module
from dm2at_ray.training.ema import WeightAverage
from dm2at_ray.training.lookout import Lookout

Accuracies = tuple[float, float, float]
GOOD: Accuracies = (0.8, 0.55, 0.5)
BETTER: Accuracies = (0.8, 0.6, 0.6)
COLLAPSED: Accuracies = (0.85, 0.8, 0.02)


def make_lookout(script: Iterable[Accuracies], **settings: Any) -> Lookout:
    rest: Iterator[Accuracies] = iter(script)
    return Lookout(
        TrainSettings(**settings), 3, images=100, every=2, measure=lambda model: next(rest), looks=()
    )


def play(
    lookout: Lookout, looks: int, average: WeightAverage | None = None
) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """So many looks; before look n, the only weight becomes n."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(1, looks + 1):
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        nn.init.constant_(model.weight, number)
        if average is not None:
            average.update(model)
        lookout.look(model, average, optimizer, epoch=2 * number, step=20 * number)
    return model, optimizer


def result(lookout: Lookout, model: nn.Linear, average: WeightAverage | None = None) -> float:
    weights = lookout.result(average)
    return (model.state_dict() if weights is None else weights)["weight"].item()


def test_is_due__every_so_often_and_after_the_last() -> None:
    lookout = make_lookout([])
    assert [epoch for epoch in range(1, 8) if lookout.is_due(epoch, 7)] == [2, 4, 6, 7]


def test_look__a_sound_training_results_in_its_last_weights() -> None:
    lookout = make_lookout([BETTER, GOOD])
    model, _ = play(lookout, 2)
    assert (lookout.outcome, result(lookout, model)) == ("last", 2)


def test_look__warn_changes_nothing() -> None:
    lookout = make_lookout([GOOD, COLLAPSED], on_collapse="warn")
    model, _ = play(lookout, 2)
    assert (lookout.looks[-1].answer, lookout.outcome, result(lookout, model)) == ("warn", "last", 2)


def test_look__restore_best_goes_on_and_results_in_the_best() -> None:
    lookout = make_lookout([GOOD, COLLAPSED, BETTER, COLLAPSED], on_collapse="restore_best")
    model, optimizer = play(lookout, 4)
    assert model.weight.item() == 4
    assert optimizer.state
    assert (lookout.outcome, result(lookout, model)) == ("best", 3)


def test_look__restore_best_without_a_sound_look_has_nothing_to_go_back_to() -> None:
    lookout = make_lookout([(0.2, 0.9, 0.1)], on_collapse="restore_best")
    model, _ = play(lookout, 1)
    assert lookout.looks[0].collapse == "inversion"
    assert (lookout.outcome, result(lookout, model)) == ("last", 1)


def test_look__switch_attack_goes_back_to_the_best_weights() -> None:
    lookout = make_lookout([BETTER, GOOD, COLLAPSED], on_collapse="switch_attack", attack="rs_fgsm")
    assert lookout.settings.attack == "rs_fgsm"
    model, optimizer = play(lookout, 3)
    assert lookout.settings.attack == "n_fgsm"
    assert model.weight.item() == 1
    assert not optimizer.state
    assert lookout.outcome == "last"


def test_look__switch_attack_stays_where_no_look_was_robust() -> None:
    lookout = make_lookout([(0.5, 0.1, 0.0), (0.9, 0.5, 0.0)], on_collapse="switch_attack", attack="fgsm")
    model, optimizer = play(lookout, 2)
    assert lookout.settings.attack == "n_fgsm"
    assert model.weight.item() == 2
    assert optimizer.state


def test_look__switch_attack_of_n_fgsm_takes_pgd() -> None:
    lookout = make_lookout([GOOD, COLLAPSED, COLLAPSED], on_collapse="switch_attack", attack="rs_fgsm")
    play(lookout, 3)
    assert lookout.settings.attack == "pgd"


def test_look__fail_names_round_epoch_and_accuracies() -> None:
    lookout = make_lookout([GOOD, COLLAPSED], on_collapse="fail")
    with pytest.raises(
        CollapseError, match=r"round 3, epoch 4: .* clean 85.0%, FGSM 80.0%, PGD 2.0%; train with"
    ):
        play(lookout, 2)


def test_look__early_stop_by_looks_without_a_gain() -> None:
    lookout = make_lookout([GOOD, BETTER, GOOD, GOOD], early_stop=2)
    model, _ = play(lookout, 3)
    assert not lookout.stops
    lookout.look(model, None, torch.optim.SGD(model.parameters()), epoch=8, step=80)
    assert lookout.stops
    assert (lookout.outcome, result(lookout, model)) == ("best", 2)


def test_look__early_stop_of_a_clean_training_goes_by_clean_accuracy() -> None:
    lookout = make_lookout(
        [(0.5, 0.3, 0.3), (0.7, 0.2, 0.0), (0.6, 0.1, 0.0)], early_stop=1, clean_weight=1.0
    )
    model, _ = play(lookout, 3)
    assert lookout.stops
    assert result(lookout, model) == 2


def test_look__the_average_is_what_is_judged_kept_and_used() -> None:
    average = WeightAverage(nn.Linear(1, 1, bias=False), 0.5)
    seen: list[float] = []
    script = iter([GOOD, COLLAPSED])

    def measured(model: nn.Module) -> Accuracies:
        seen.append(model.state_dict()["weight"].item())
        return next(script)

    settings = TrainSettings(ema=0.5, on_collapse="switch_attack")
    lookout = Lookout(settings, 0, images=100, every=1, measure=measured)
    model, _ = play(lookout, 2, average)
    assert seen == pytest.approx([1, 1 * 2 / 11 + 2 * 9 / 11])
    assert lookout.outcome == "average"
    assert model.weight.item() == result(lookout, model, average) == 1
    nn.init.constant_(model.weight, 7)
    average.update(model)
    assert result(lookout, model, average) == 7  # it began anew


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have `train` look after every epoch and see these accuracies."""

    def script(accuracies: Iterable[Accuracies]) -> None:
        rest = iter(accuracies)
        monkeypatch.setattr(lookout_module, "epochs_between_looks", lambda *_: 1)
        monkeypatch.setattr(lookout_module, "measure", lambda *_, **__: next(rest))

    return script


def trained(make_labeled: Any, model: nn.Module, **settings: Any) -> TrainResult:
    labeled: LabeledSet = make_labeled(500)
    chosen = TrainSettings(min_steps=0, batch_size=100, learning_rate=0.02, schedule="constant", **settings)
    return train(model, labeled, chosen, seed=2, round_index=1)


def test_train__restores_the_best_epoch(scripted: Any, make_labeled: Any, make_model: Any) -> None:
    model, two_epochs = make_model(batch_norm=True), make_model(batch_norm=True)
    scripted([GOOD, BETTER, COLLAPSED, COLLAPSED])
    result = trained(make_labeled, model, epochs=4)
    assert (result.epochs, result.stability.outcome, result.stability.best_epoch) == (4, "best", 2)
    scripted([GOOD, GOOD])
    trained(make_labeled, two_epochs, epochs=2)
    for ours, theirs in zip(model.state_dict().values(), two_epochs.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_train__stops_early_at_its_best_epoch(scripted: Any, make_labeled: Any, make_model: Any) -> None:
    model, one_epoch = make_model(), make_model()
    scripted([BETTER, GOOD, GOOD])
    result = trained(make_labeled, model, epochs=40, early_stop=2)
    assert result.epochs == 3
    assert result.stability.stopped_early
    scripted([GOOD])
    trained(make_labeled, one_epoch, epochs=1)
    for ours, theirs in zip(model.parameters(), one_epoch.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_train__the_average_is_the_result(make_labeled: Any, make_model: Any) -> None:
    plain, averaged, latest = make_model(), make_model(), make_model()
    trained(make_labeled, plain, epochs=2)
    result = trained(make_labeled, averaged, epochs=2, ema=0.9)
    trained(make_labeled, latest, epochs=2, ema=1e-9)
    assert result.stability.outcome == "average"
    assert not torch.equal(averaged[0].weight, plain[0].weight)
    torch.testing.assert_close(latest[0].weight, plain[0].weight)

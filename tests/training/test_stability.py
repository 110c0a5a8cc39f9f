"""Looks worked out by hand; 100 images each, so that chance explains up to 0.14 around 0.5."""

from __future__ import annotations

import copy
import math

import pytest

from dm2at_ray.training import CollapseError, Look, TrainSettings
from dm2at_ray.training.stability import (
    Collapse,
    answer_in_words,
    best_look,
    collapse_of,
    is_worth_restoring,
    judged,
    looks_without_gain,
    noise,
    switched,
    went_back,
)


def look(epoch: int, clean: float, fgsm: float, pgd: float, **more: object) -> Look:
    return Look(epoch, 10 * epoch, more.pop("images", 100), clean, fgsm, pgd, **more)  # type: ignore[arg-type]


SOUND = look(1, 0.8, 0.55, 0.5)


def test_noise__is_two_standard_errors_of_a_difference() -> None:
    # 2 sqrt((0.5 * 0.5 + 0.2 * 0.8) / 100) = 2 * 0.06403
    assert noise(0.5, 0.2, 100) == pytest.approx(0.12806, abs=1e-5)
    assert noise(0.5, 0.2, 400) == pytest.approx(noise(0.5, 0.2, 100) / 2)
    assert noise(1.0, 0.0, 100) == 0


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [
        (0.75, 0.1, "overfitting"),  # the textbook's: FGSM up, PGD gone
        (0.55, 0.29, "overfitting"),  # FGSM as it was, PGD down by 0.21
        (0.55, 0.30, None),  # down by 0.2, no more
        (0.54, 0.1, None),  # both down: a bad epoch, not this
        (0.75, 0.5, None),
        (0.75, 0.7, None),
    ],
)
def test_collapse_of__overfitting(fgsm: float, pgd: float, expected: str | None) -> None:
    assert collapse_of([SOUND], look(2, 0.85, fgsm, pgd)) == expected


@pytest.mark.parametrize(
    ("fgsm", "pgd", "expected"),
    [(0.5, 0.04, "overfitting"), (0.5, 0.06, None), (0.22, 0.0, "overfitting"), (0.2, 0.0, None)],
)
def test_collapse_of__overfitting_before_the_first_look(
    fgsm: float, pgd: float, expected: str | None
) -> None:
    assert collapse_of([], look(1, 0.8, fgsm, pgd)) == expected
    gone = look(1, 0.8, 0.5, 0.0, collapse="overfitting", answer="warn")
    assert collapse_of([gone], look(2, 0.8, 0.1, 0.0)) == "overfitting"  # FGSM accuracy swings meanwhile
    assert collapse_of([gone], look(2, 0.8, 0.5, 0.2)) is None


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0.5, None), (0.5, None)], False),
        ([(0.5, None), (0.0, "overfitting")], True),
        ([(0.5, None), (0.0, "overfitting"), (0.4, None)], False),  # recovered, and trained for longer
        ([(0.5, None), (0.0, "overfitting"), (0.3, None)], True),
        ([(0.01, None), (0.0, "overfitting")], False),  # it never was robust
        ([(0.5, None), (0.9, "inversion")], True),
        ([(0.0, "overfitting"), (0.0, "overfitting")], False),
    ],
)
def test_is_worth_restoring(looks: list[tuple[float, Collapse | None]], expected: bool) -> None:
    seen = [look(epoch, 0.8, 0.6, pgd, collapse=kind) for epoch, (pgd, kind) in enumerate(looks, start=1)]
    assert is_worth_restoring(seen) == expected


def test_collapse_of__overfitting_is_measured_from_the_best_look_not_the_last() -> None:
    slowly = [look(1, 0.8, 0.5, 0.5), look(2, 0.8, 0.55, 0.4), look(3, 0.8, 0.6, 0.32)]
    assert collapse_of(slowly, look(4, 0.8, 0.65, 0.25)) == "overfitting"


def test_collapse_of__few_images_need_a_deeper_fall() -> None:
    # On 20 images two standard errors are 2 sqrt((0.25 + 0.1875) / 20) = 0.296.
    assert collapse_of([look(1, 0.8, 0.5, 0.5, images=20)], look(2, 0.8, 0.5, 0.25, images=20)) is None
    assert collapse_of([look(1, 0.8, 0.5, 0.5, images=20)], look(2, 0.8, 0.5, 0.1, images=20)) is not None


def test_collapse_of__overfitting_lasts_until_pgd_accuracy_is_back() -> None:
    looks = [SOUND, look(2, 0.85, 0.7, 0.05, collapse="overfitting", answer="warn")]
    assert collapse_of(looks, look(3, 0.85, 0.4, 0.05)) == "overfitting"  # FGSM accuracy swings meanwhile
    assert collapse_of(looks, look(3, 0.85, 0.5, 0.4)) is None


@pytest.mark.parametrize(
    ("clean", "fgsm", "pgd", "expected"),
    [
        (0.5, 0.65, 0.4, "inversion"),  # 0.15 > 2 sqrt((0.25 + 0.2275) / 100) = 0.138
        (0.5, 0.63, 0.4, None),
        (0.5, 0.4, 0.65, "inversion"),
        (0.8, 0.8, 0.8, None),
        (1.0, 1.0, 1.0, None),
        (0.0, 0.0, 0.0, None),
    ],
)
def test_collapse_of__inversion(clean: float, fgsm: float, pgd: float, expected: str | None) -> None:
    assert collapse_of([], look(1, clean, fgsm, pgd)) == expected


def run(policy: str, *accuracies: tuple[float, float, float], **settings: object) -> list[Look]:
    looks: list[Look] = []
    now = TrainSettings(on_collapse=policy, **settings)  # type: ignore[arg-type]
    for epoch, (clean, fgsm, pgd) in enumerate(accuracies, start=1):
        looks.append(judged(looks, look(epoch, clean, fgsm, pgd), now))
        if looks[-1].attack is not None:
            now = switched(now)
    return looks


COLLAPSED = (0.85, 0.8, 0.02)
GOOD = (0.8, 0.55, 0.5)


def test_judged__a_collapse_that_lasts_is_answered_once() -> None:
    looks = run("warn", GOOD, COLLAPSED, COLLAPSED, GOOD, COLLAPSED)
    assert [each.collapse is not None for each in looks] == [False, True, True, False, True]
    assert [each.answer for each in looks] == [None, "warn", None, None, "warn"]
    assert {each.attack for each in looks} == {None}


def test_judged__switching_goes_up_to_pgd_and_answers_every_time() -> None:
    looks = run("switch_attack", GOOD, COLLAPSED, GOOD, COLLAPSED, COLLAPSED, attack="rs_fgsm")
    assert [each.answer for each in looks] == [None, "switch_attack", None, "switch_attack", "switch_attack"]
    assert [each.attack for each in looks] == [None, "n_fgsm", None, "pgd", "pgd"]


@pytest.mark.parametrize("settings", [{"clean_weight": 1.0}, {"epsilon": 0.0}])
def test_judged__clean_training_cannot_collapse(settings: dict[str, float]) -> None:
    assert {each.collapse for each in run("fail", GOOD, COLLAPSED, **settings)} == {None}


def test_switched__stored_twins_give_way_to_fresh_adversaries() -> None:
    after = switched(TrainSettings(adversaries="stored", attack="n_fgsm"))
    assert (after.adversaries, after.attack) == ("fresh", "n_fgsm")


def test_switched__shared_passes_do_not_suit_what_follows() -> None:
    before = TrainSettings(passes="shared", attack="fgsm", attack_mode="train")
    assert (switched(before).passes, switched(before).attack) == ("two", "n_fgsm")


def test_best_look__a_collapsed_one_is_never_best() -> None:
    inverted = look(3, 0.2, 0.9, 0.9, collapse="inversion")
    looks = [look(1, 0.8, 0.5, 0.4), SOUND, inverted, look(4, 0.9, 0.6, 0.5)]
    assert best_look(looks) is SOUND  # the earlier of equals
    assert best_look(looks, "clean") is looks[3]
    assert best_look([inverted]) is None


def test_looks_without_gain() -> None:
    assert looks_without_gain([]) == 0
    assert looks_without_gain([SOUND]) == 0
    assert looks_without_gain([SOUND, look(2, 0.8, 0.5, 0.5), look(3, 0.8, 0.5, 0.4)]) == 2
    switch = look(2, 0.8, 0.9, 0.0, collapse="overfitting", answer="switch_attack", attack="n_fgsm")
    assert looks_without_gain([SOUND, switch, look(3, 0.8, 0.5, 0.4)]) == 1  # counted from the new attack on


def test_collapse_error__says_where_what_and_the_mend() -> None:
    error = CollapseError(3, look(12, 0.85, 0.8, 0.02, collapse="overfitting"))
    assert str(error) == (
        "training collapsed in round 3, epoch 12: catastrophic overfitting (FGSM accuracy stands, PGD "
        "accuracy does not) on 100 held-out images: clean 85.0%, FGSM 80.0%, PGD 2.0%; train with attack: "
        "n_fgsm or pgd, with a smaller epsilon, or with on_collapse: switch_attack"
    )
    assert str(copy.copy(error)) == str(error)  # takes the way that serializers take


@pytest.mark.parametrize(
    ("policy", "deed"),
    [
        ("warn", "; training goes on"),
        (
            "restore_best",
            "; training goes on, but unless it recovers, the weights of epoch 1 are its result",
        ),
        ("switch_attack", "; training goes on from epoch 1 with attack: n_fgsm"),
    ],
)
def test_answer_in_words(policy: str, deed: str) -> None:
    looks = run(policy, GOOD, COLLAPSED, attack="fgsm")
    words = answer_in_words(looks)
    assert words is not None
    assert words.startswith("epoch 2: catastrophic overfitting")
    assert words.endswith(deed)
    assert answer_in_words(looks[:1]) is None


def test_answer_in_words__nothing_to_go_back_to() -> None:
    never_robust = (0.8, 0.5, 0.0)
    restore, switch = (
        run(policy, never_robust, attack="fgsm") for policy in ("restore_best", "switch_attack")
    )
    assert str(answer_in_words(restore)).endswith("PGD 0.0%; training goes on")
    assert str(answer_in_words(switch)).endswith("; training goes on from epoch 1 with attack: n_fgsm")
    assert not went_back(switch)


def test_collapse_of__chance_alone_seldom_looks_like_one() -> None:
    """Two looks at one model on 50 images, as small as the part gets: no fall, however unlucky."""
    half = 0.5
    spread = 2 * math.sqrt(2 * half * half / 50)
    assert spread == pytest.approx(0.2)
    first, second = look(1, 0.9, 0.6, 0.6, images=50), look(2, 0.9, 0.6, 0.4, images=50)
    assert collapse_of([first], second) is None

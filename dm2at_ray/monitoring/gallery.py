"""The pictures of a round's queries, each beside its adversarial twin and the perturbation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dm2at_ray.monitoring.pictures import Pixels, data_uri, magnification, magnified_perturbation
from dm2at_ray.monitoring.quantities import NOTHING


@dataclass(frozen=True)
class QueriedImage:
    """One queried sample.

    Attributes:
        sample_id: Its id in the pool.
        image: Its pixels, uint8 (H, W, C) with C of 1 or 3.
        adversarial: Those of its adversarial twin, of the same shape; None if it has none.
        true_label: Index of the class it was labeled as; None if it has no label yet.
        predicted_label: Index of the class the model took it for when it was queried; None if not known.
        score: Its acquisition score.
    """

    sample_id: int
    image: Pixels
    adversarial: Pixels | None
    true_label: int | None
    predicted_label: int | None
    score: float


@dataclass(frozen=True)
class Card:
    """A `QueriedImage` as the page shows it: words, and pictures as data URIs."""

    sample_id: int
    score: str
    true_name: str
    predicted_name: str
    wrong: bool
    image: str
    adversarial: str | None
    perturbation: str | None


@dataclass(frozen=True)
class Gallery:
    """The cards of a round, `of` how many queries, and the factor that magnifies their perturbations."""

    round: int
    of: int
    factor: int
    cards: list[Card]


def make_gallery(
    round_index: int,
    samples: Sequence[QueriedImage],
    class_names: Sequence[str],
    queried: int | None,
    most: int,
) -> Gallery:
    """The first `most` samples of a round; one factor magnifies all their perturbations, so they compare.

    Args:
        round_index: The round.
        samples: Its queries, or the first of them, in the order to show.
        class_names: Names of the classes.
        queried: How many queries the round made in all; None if only `samples` is known.
        most: How many to show at most.
    """
    shown = samples[:most]
    pairs = [(sample.image, sample.adversarial) for sample in shown if sample.adversarial is not None]
    factor = magnification(pairs)
    cards = [_card(sample, class_names, factor) for sample in shown]
    return Gallery(round_index, queried or len(samples), factor, cards)


def _card(sample: QueriedImage, class_names: Sequence[str], factor: int) -> Card:
    true, predicted, twin = sample.true_label, sample.predicted_label, sample.adversarial
    return Card(
        sample_id=sample.sample_id,
        score=f"{sample.score:.3f}",
        true_name="no label yet" if true is None else class_names[true],
        predicted_name=NOTHING if predicted is None else class_names[predicted],
        wrong=true is not None and predicted is not None and true != predicted,
        image=data_uri(sample.image),
        adversarial=None if twin is None else data_uri(twin),
        perturbation=None if twin is None else data_uri(magnified_perturbation(sample.image, twin, factor)),
    )

from __future__ import annotations

import numpy as np
import pytest

from dm2at_ray.training import LabeledSet

IMAGES = np.zeros((2, 4, 4, 1), np.uint8)
LABELS = np.array([0, 1])


def test_labeled__twins_for_all_or_none() -> None:
    assert LabeledSet(np.array([5, 3]), IMAGES, LABELS).twin_mask().tolist() == [False, False]
    assert LabeledSet(np.array([5, 3]), IMAGES, LABELS, IMAGES).twin_mask().tolist() == [True, True]


def test_labeled__refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="uint8"):
        LabeledSet(np.array([5, 3]), IMAGES.astype(np.float32), LABELS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length"):
        LabeledSet(np.array([5, 3]), IMAGES, LABELS[:1])
    with pytest.raises(ValueError, match="twice"):
        LabeledSet(np.array([5, 5]), IMAGES, LABELS)
    with pytest.raises(ValueError, match="there are none"):
        LabeledSet(np.array([5, 3]), IMAGES, LABELS, None, np.array([True, False]))
    with pytest.raises(ValueError, match="match"):
        LabeledSet(np.array([5, 3]), IMAGES, LABELS, IMAGES[:, :2])

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


def test_subset__takes_the_rows_asked_for() -> None:
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2, 1)
    labeled = LabeledSet(np.array([9, 7, 5, 3, 1]), images, np.arange(5), 255 - images, np.arange(5) > 2)
    for rows in ([1, 2, 3], [3, 2, 1], [0, 2, 4], [4], []):
        part = labeled.subset(np.array(rows, np.int64))
        np.testing.assert_array_equal(part.sample_ids, labeled.sample_ids[rows])
        np.testing.assert_array_equal(part.images, images[rows])
        np.testing.assert_array_equal(part.labels, rows)
        np.testing.assert_array_equal(part.twins, 255 - images[rows])
        np.testing.assert_array_equal(part.twin_mask(), np.array(rows) > 2)


def test_subset__a_run_of_rows_is_no_copy() -> None:
    images = np.zeros((5, 2, 2, 1), np.uint8)
    labeled = LabeledSet(np.arange(5), images, np.arange(5))
    assert np.shares_memory(labeled.subset(np.array([1, 2, 3])).images, images)
    assert not np.shares_memory(labeled.subset(np.array([1, 3])).images, images)

"""The labeled set L, as a training sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabeledSet:
    """Labeled images and the adversarial twins that Step 5 stored for some of them.

    The order of the rows means nothing: a training depends on the sample ids only.

    Raises:
        ValueError: The shapes or dtypes do not fit together, or a sample id comes twice.
    """

    sample_ids: NDArray[np.int64]
    """(N,) int64, unique."""

    images: NDArray[np.uint8]
    """(N, H, W, C) uint8."""

    labels: NDArray[np.int64]
    """(N,) int64, class indices."""

    twins: NDArray[np.uint8] | None = None
    """(N, H, W, C) uint8, rows without a twin holding anything; None when no sample has one."""

    has_twin: NDArray[np.bool_] | None = None
    """(N,) bool: the rows of `twins` that hold a twin; None stands for all, or none without `twins`."""

    def __post_init__(self) -> None:
        count = len(self.sample_ids)
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be (N, H, W, C) uint8, not {self.images.shape} {self.images.dtype}"
            )
        if self.has_twin is None:
            object.__setattr__(self, "has_twin", np.full(count, self.twins is not None))
        assert self.has_twin is not None
        if not len(self.images) == len(self.labels) == len(self.has_twin) == count:
            raise ValueError("sample_ids, images, labels and has_twin differ in length")
        if len(np.unique(self.sample_ids)) != count:
            raise ValueError("a sample id comes twice")
        if self.twins is None and self.has_twin.any():
            raise ValueError("has_twin says there are twins, but there are none")
        if self.twins is not None and (self.twins.dtype != np.uint8 or self.twins.shape != self.images.shape):
            raise ValueError(f"twins {self.twins.shape} {self.twins.dtype} do not match the images")

    def __len__(self) -> int:
        return len(self.sample_ids)

    def subset(self, rows: NDArray[np.int64]) -> LabeledSet:
        """The samples of these rows; without a copy where the rows are a run."""
        is_run = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
        taken = slice(rows[0], rows[0] + len(rows)) if is_run else rows
        twins = None if self.twins is None else self.twins[taken]
        return LabeledSet(
            self.sample_ids[taken], self.images[taken], self.labels[taken], twins, self.twin_mask()[taken]
        )

    def twin_mask(self) -> NDArray[np.bool_]:
        """(N,) bool: which samples have a twin."""
        assert self.has_twin is not None
        return self.has_twin

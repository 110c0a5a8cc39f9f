"""scikit-learn's handwritten digits: 1,797 gray images of 8 x 8 pixels, no download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from dm2at_ray.pool.decode import Raw
from dm2at_ray.pool.sources.base import Source, SourceSpec, Split, entry_table, refuse_test_path

URI = "sklearn:digits"


class Digits(Source):
    """The test half of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).

    scikit-learn's pixels of 0..16 become uint8 by round(v * 255 / 16). A test split is held out.
    """

    kind = "digits"
    has_test_split = False

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        refuse_test_path(
            spec, "the digits have no test images elsewhere, data.test_fraction of them is held out"
        )

    @property
    def class_names(self) -> list[str]:
        """The ten digits."""
        return [str(digit) for digit in range(10)]

    def native_size(self) -> tuple[int, int]:
        """8 x 8 pixels, gray."""
        return 8, 1

    def entries(self, split: Split) -> Iterator[pa.Table]:
        """All digits in scikit-learn's order; ``row`` is the index there."""
        images, labels = self._arrays
        yield entry_table([URI] * len(images), np.arange(len(images)), labels)

    def read(self, uris: Sequence[str], rows: Sequence[int]) -> list[Raw]:
        """Arrays (8, 8)."""
        images, _ = self._arrays
        return [images[row] for row in rows]

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # imported late: it takes a second

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        images.flags.writeable = False
        return images, digits.target.astype(np.int64)

"""What every oracle answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np


class Oracle(ABC):
    """Gives queries their true labels: Step 6 of Algorithm 2 (Song et al., Entropy 27(11):1159, 2025).

    Attributes:
        name: what the config and ``labels.parquet`` call it.
    """

    name: ClassVar[str]

    @abstractmethod
    def label(self, sample_ids: np.ndarray) -> np.ndarray:
        """Class numbers (n,) int64 of the queries (n,) int64, in their order."""

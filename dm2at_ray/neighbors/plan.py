"""How one pool is searched: decided once, from a sample of it, and the same for every pair of its blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.cells import LARGEST_SAMPLE, SAMPLE_PER_CELL, Cells, cell_count
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.normalizer import Normalizer
from dm2at_ray.neighbors.quantizer import Quantizer
from dm2at_ray.neighbors.result import Neighbors
from dm2at_ray.neighbors.topk import neighbors_of

ENGINES = ("exact", "shortlist", "routed")

CANDIDATES_PER_NEIGHBOR = 16
"""The 8 k best by L2 hold all k nearest under D on most features of convolutional nets, not on all."""
SMALLEST_REFERENCE, LARGEST_REFERENCE = 2048, 32768
LEAST_RANK = 8
"""A radius is the distance to so many reference rows at least: fewer are too noisy a measure."""
LARGEST_SAMPLE_FOR_MOMENTS = 1 << 16
ROWS_FOR_QUANTIZER = 1024

# Differences that the exact search takes (N^2 D / 2): about half a minute of a CPU core, a second of a GPU.
EXACT_WORK_CPU = 2.0**41
EXACT_WORK_GPU = 2.0**44
ROUTED_ROWS_GPU = 4_000_000


@dataclass(frozen=True)
class Search:
    """What is asked for.

    Attributes:
        k: Neighbours of each row, at least 1.
        engine: A name in ENGINES, or `auto`.
        metric: D.
        normalize: Of the features: `none`, `l2` or `standardize`.
        recall: What the routed engine aims at.
    """

    k: int
    engine: str = "auto"
    metric: Metric = field(default_factory=Metric)
    normalize: str = "none"
    recall: float = 0.99

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k={self.k} must be at least 1")
        if self.engine not in ("auto", *ENGINES):
            raise ConfigError(f"engine={self.engine!r} is unknown; use one of: auto, {', '.join(ENGINES)}")
        if not 0 < self.recall < 1:
            raise ConfigError(f"recall={self.recall} must lie between 0 and 1; engine exact finds all")

    def chosen_engine(self, rows: int, dims: int, device: str) -> str:
        """Name the engine that `auto` stands for on a kind of device (`cpu` or `cuda`).

        On a CPU the certified filter is as fast as the shortlist's, so `exact` is taken until a minute of a
        core is not enough, and then `routed`.
        """
        if self.engine != "auto":
            return self.engine
        work = rows * rows * dims / 2
        if device == "cuda":
            if work <= EXACT_WORK_GPU or CANDIDATES_PER_NEIGHBOR * self.k > SMALLEST_REFERENCE // 2:
                return "exact"
            return "shortlist" if rows <= ROUTED_ROWS_GPU else "routed"
        return "exact" if work <= EXACT_WORK_CPU or rows < 64 * self.k else "routed"


def reference_rows(engine: str, rows: int) -> int:
    """How many rows of a pool a plan is made from."""
    count = max(LARGEST_SAMPLE_FOR_MOMENTS, _radius_rows(rows))
    if engine == "routed":
        count = max(count, min(LARGEST_SAMPLE, SAMPLE_PER_CELL * cell_count(rows)))
    return min(rows, count)


def _radius_rows(rows: int) -> int:
    return min(rows, max(SMALLEST_REFERENCE, min(LARGEST_REFERENCE, rows // 16)))


@dataclass(frozen=True, eq=False)
class Plan:
    """What every pair of blocks is searched by.

    Attributes:
        search: What is asked for, `engine` no longer `auto`.
        normalizer: Of the features.
        quantizer: Of the normalized features.
        reference: Rows (S,) of the pool, encoded, that radii and limits are measured against.
        rank: The radius is the distance to this many reference rows.
        cells: The routed engine's map.
        probe_count: Cells that each row looks into.
    """

    search: Search
    normalizer: Normalizer
    quantizer: Quantizer
    reference: Encoded | None
    rank: int
    cells: Cells | None = None
    probe_count: int = 0

    @classmethod
    def fit(cls, search: Search, sample_ids: np.ndarray, sample: np.ndarray | Tensor, rows: int) -> Plan:
        """Decide how to search a pool.

        Args:
            search: What is asked for; `engine` must not be `auto` any more.
            sample_ids: (S,) int64 of `reference_rows` rows drawn from the pool, ascending.
            sample: (S, D) their raw features.
            rows: N, rows of the pool.
        """
        raw = Block.make(sample_ids, sample)
        normalizer = Normalizer.fit(search.normalize, raw.features)
        block = Block(raw.sample_ids, normalizer(raw.features))
        # Rows of a sample stand in the order of their ids: every so many, not the first ones.
        few = _spread(len(sample_ids), ROWS_FOR_QUANTIZER)
        quantizer = Quantizer.fit(block.features[few])
        size = _radius_rows(rows)
        at = _spread(len(sample_ids), size)
        wanted = CANDIDATES_PER_NEIGHBOR * max(search.k, LEAST_RANK)
        rank = max(LEAST_RANK, math.ceil(wanted * len(at) / rows))
        plan = cls(
            search,
            normalizer,
            quantizer,
            _encode(Block(block.sample_ids[at], block.features[at]), quantizer),
            rank,
        )
        if search.engine != "routed":
            return plan
        count = cell_count(rows)
        some = _spread(len(sample_ids), SAMPLE_PER_CELL * count)
        return replace(plan, cells=Cells.fit(block.features[some], count))

    @property
    def certified(self) -> bool:
        """Whether candidates follow from the proven bound, not from a radius."""
        return self.search.engine != "shortlist"

    def widened(self) -> Plan:
        """The same with twice the candidates, or half as many cells again to look into."""
        if self.cells is not None:
            return replace(self, probe_count=min(len(self.cells), math.ceil(1.5 * self.probe_count)))
        return replace(self, rank=2 * self.rank)

    def for_pairs(self) -> Plan:
        """The plan without what guides and probes are made from, small enough to travel with each pair."""
        return replace(self, reference=None, cells=None)

    def block(self, sample_ids: np.ndarray | Tensor, features: np.ndarray | Tensor) -> Block:
        """Check, cast and normalize rows of the pool (N, D)."""
        return Block.make(sample_ids, features, self.normalizer)

    def guide(self, block: Block) -> Tensor:
        """Return (N,) how far each row looks, once per block: radii int64, or limits float32 where certified.

        A CPU finds its limits as it goes; a GPU takes thousands of pairs at once and needs them before.
        """
        on_cpu = not block.features.is_cuda
        if self.certified and on_cpu:
            return torch.full((len(block),), torch.inf, dtype=torch.float32)
        found = self._nearest_references(block)
        return self._limits(block, found) if self.certified else self._radii(block, found)

    def encode(self, block: Block, guide: Tensor) -> Encoded:
        """Bring a block into the form that pairs of blocks are searched in."""
        return _encode(block, self.quantizer, guide.to(block.features.device), self.certified)

    def search_pair(self, a: Encoded, b: Encoded, threads: int = 1) -> tuple[Neighbors, Neighbors]:
        """Find the k nearest of a's rows among b's, and of b's among a's: all pairs of rows are looked at.

        Memory beside the two blocks: their codes once more, and 8 k bytes a row.
        """
        whole = np.array([[0, len(a), 0, len(b)]], np.int64)
        if len(a) == 0 or len(b) == 0:
            whole = whole[:0]
        of_a, of_b = backend.search_ranges(
            a, b, whole, k=self.search.k, metric=self.search.metric, step=self.quantizer.step, threads=threads
        )
        return neighbors_of(of_a, b.sample_ids.sort().values), neighbors_of(of_b, a.sample_ids.sort().values)

    def _nearest_references(self, block: Block) -> tuple[Tensor, Tensor]:
        """The squared L2 of codes (N, r), and places (N, r), of the nearest reference rows but itself."""
        reference = self.reference
        assert reference is not None
        codes = self.quantizer.encode(block.features)[0]
        wanted = min(len(reference), max(self.rank, self.search.k))
        device = codes.device
        return backend.nearest_codes(
            codes, reference.codes.to(device), block.sample_ids, reference.sample_ids.to(device), wanted
        )

    def _radii(self, block: Block, found: tuple[Tensor, Tensor]) -> Tensor:
        squared = found[0]
        # Above what any two codes are apart; int32 where that fits, as the GPU's kernel has it.
        farthest = max(torch.iinfo(torch.int32).max, 255**2 * block.features.shape[1])
        if squared.shape[1] < self.rank:
            return torch.full((len(block),), farthest, dtype=torch.int64)
        # A reference row has one other fewer: beyond the last there is nothing.
        radii = squared[:, self.rank - 1]
        return torch.where(radii >= torch.iinfo(torch.int64).max // 4, farthest, radii)

    def _limits(self, block: Block, found: tuple[Tensor, Tensor]) -> Tensor:
        k, places = self.search.k, found[1]
        if self.reference is None or len(self.reference) <= k:
            return block.features.new_full((len(block),), torch.inf)
        i = torch.arange(len(block), device=places.device).repeat_interleave(k)
        known = self.reference.features.to(block.features.device)
        distances = backend.pair_distances(
            block.features, i, known, places[:, :k].flatten(), self.search.metric
        )
        # Another order of summation may put the same pair a little farther.
        return distances.view(-1, k).amax(dim=1) * self.search.metric.rounding(block.features.shape[1])


def _encode(
    block: Block, quantizer: Quantizer, guide: Tensor | None = None, certified: bool = True
) -> Encoded:
    codes, residuals = quantizer.encode(block.features)
    n, device = len(block), block.features.device
    order = torch.empty(n, dtype=torch.int64, device=device)
    order[block.sample_ids.argsort()] = torch.arange(n, device=device)
    nowhere = torch.full((n,), torch.inf, dtype=torch.float32, device=device)
    return Encoded(
        sample_ids=block.sample_ids,
        features=block.features,
        codes=codes,
        residuals=residuals,
        order=order,
        limit=guide if certified and guide is not None else nowhere,
        radius=None if certified else guide,
    )


def _spread(rows: int, count: int) -> Tensor:
    """Places of at most `count` rows, evenly spaced."""
    return torch.linspace(0, rows - 1, min(rows, count)).round().to(torch.int64)

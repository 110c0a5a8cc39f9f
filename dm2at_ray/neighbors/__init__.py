"""k-nearest-neighbour search under D = L1 + L2 (Step 2 of Algorithm 2); knows no Ray and no files."""

from dm2at_ray.neighbors.block import TILE, Block
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.plan import ENGINES, Plan, Search
from dm2at_ray.neighbors.result import Neighbors, merge
from dm2at_ray.neighbors.search import search

__all__ = ["ENGINES", "TILE", "Block", "Metric", "Neighbors", "Plan", "Search", "merge", "search"]

"""k-nearest-neighbour search under D = L1 + L2 (Step 2 of Algorithm 2); knows no Ray and no files."""

from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.result import Neighbors, merge
from dm2at_ray.neighbors.search import ENGINES, choose_engine, search, search_pair
from dm2at_ray.neighbors.tiles import TILE

__all__ = ["ENGINES", "TILE", "Block", "Neighbors", "choose_engine", "merge", "search", "search_pair"]

"""Images in, labels in and out: sources, decoding, the manifest, the pool by sample id.

Images leave as uint8 (n, H, W, C); they become floats on the device only. Nothing here needs Ray, and nothing
holds more than a bounded share of the pool.
"""

from __future__ import annotations

from dm2at_ray.pool.decode import UnreadableImage, decode
from dm2at_ray.pool.images import Pool
from dm2at_ray.pool.manifest import PART_ROWS, Counts, Manifest, check_part, part_name
from dm2at_ray.pool.simulated_oracle import SimulatedOracle
from dm2at_ray.pool.sources import SOURCES, Source, SourceSpec, open_source

__all__ = [
    "PART_ROWS",
    "SOURCES",
    "Counts",
    "Manifest",
    "Pool",
    "SimulatedOracle",
    "Source",
    "SourceSpec",
    "UnreadableImage",
    "check_part",
    "decode",
    "open_source",
    "part_name",
]

"""What a pool directory holds, as its `pool.json` says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Part:
    """A file of the manifest.

    Attributes:
        first_id: Its first sample id; the others follow.
        rows: Its sample ids.
        labeled: Those whose label the source knows, set aside or not.
        rejected: Those set aside.
        duplicates: Those whose content a lower id has too.
    """

    first_id: int
    rows: int
    labeled: int
    rejected: int
    duplicates: int


@dataclass(frozen=True)
class Shard:
    """A file of images.

    Attributes:
        first_id: The first sample id that it was packed from.
        ids: How many it was packed from, those set aside included.
        rows: How many images it holds.
        bytes: Their encoded bytes.
    """

    first_id: int
    ids: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Catalog:
    """What is in a pool directory. An addition appends to the three lists and the names, and changes nothing.

    Attributes:
        class_names: Names of the classes in the order of their labels; None where nothing is labeled.
        image_size: Height and width in pixels to which a run brings the images where its config has none.
        channels: Likewise, 1 or 3.
        parts: The manifest's files, by index.
        shards: The files of images, by index.
        additions: What was packed, in order: `first_id`, `size` and the `sources`, as they were asked for.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    channels: int | None = None
    parts: tuple[Part, ...] = ()
    shards: tuple[Shard, ...] = ()
    additions: tuple[dict[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """Number of sample ids, those set aside included."""
        return self.parts[-1].first_id + self.parts[-1].rows if self.parts else 0

    def part_of(self, sample_id: int) -> int:
        """Index of the part that a sample id is in.

        Examples:
            >>> catalog = Catalog(parts=(Part(0, 5, 0, 0, 0), Part(5, 2, 0, 0, 0)))
            >>> [catalog.part_of(sample_id) for sample_id in (0, 4, 5, 6)]
            [0, 0, 1, 1]
        """
        if not 0 <= sample_id < self.size:
            raise ValueError(f"sample ids must lie in [0, {self.size}), got {sample_id}")
        return bisect_right(self.parts, sample_id, key=lambda part: part.first_id) - 1

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `pool.json` has them."""
        return {"format": FORMAT, "size": self.size, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Catalog:
        """What `to_json` gave.

        Raises:
            ValueError: Another format, or not all of it.
        """
        if values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format')!r}, not {FORMAT}")
        try:
            catalog = cls(
                None if values["class_names"] is None else tuple(map(str, values["class_names"])),
                values["image_size"],
                values["channels"],
                tuple(Part(**part) for part in values["parts"]),
                tuple(Shard(**shard) for shard in values["shards"]),
                tuple(values["additions"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"a field is missing or unknown: {error}") from None
        if catalog.size != values.get("size"):
            raise ValueError(f"size {values.get('size')!r}, but the parts end at {catalog.size}")
        return catalog

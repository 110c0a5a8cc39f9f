"""The directory that `dm2at predict` fills, each of its files whole or not there.

OUT/predict.json               what was asked for; then how many images there are; last what was found
OUT/listing/part-00000.parquet uri, row, label of the images of a part; gone when all parts are there
OUT/part-00000.parquet         the predictions, in the order of the listing
OUT/driver.json                the lease of the process that fills it; gone with it
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs

from dm2at_ray.errors import RunError
from dm2at_ray.pool.location import Location
from dm2at_ray.pool.manifest import part_name
from dm2at_ray.store import Lease
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LEASE_FILE, Terms

FORMAT = 1
MARKER = "predict.json"
LISTING = "listing"
_SHOWN = 80
"""Characters of a value that an error quotes."""


class PredictionFiles:
    """A directory of predictions on any pyarrow filesystem; every file in it is whole or not there.

    Args:
        uri: Path or URI of the directory, which need not exist.

    Raises:
        PoolError: No filesystem serves the URI.
    """

    def __init__(self, uri: str) -> None:
        place = Location.of(uri, "OUT")
        self.uri = place.uri
        self._files = Files(place.filesystem, place.path)

    def lease(self) -> Lease:
        """The right to fill the directory, which one process has at a time.

        Raises:
            RunError: The directory holds something else.
        """
        self._refuse_others()
        mend = "wait for it, end it, or give another place"
        terms = Terms(f"OUT {self.uri}", "process", "predicts into it", mend, RunError)
        return Lease(self._files, uuid.uuid4().hex, terms=terms)

    def begin(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Take the directory for a prediction, or go on with one that was begun with the same arguments.

        Args:
            arguments: All that the predictions depend on, as JSON has it.

        Returns:
            What predict.json says.

        Raises:
            RunError: It was begun with other arguments, or holds something else.
        """
        wanted = json.loads(json.dumps(arguments))
        self._refuse_others()
        if self._files.exists(MARKER):
            marker = self._files.read_json(MARKER)
            # A source that could not be listed may be given otherwise.
            if self._of_this_format(marker) and "listing" in marker:
                self._check_same(marker, wanted)
                return marker
        marker = {"format": FORMAT, "arguments": wanted, "complete": False}
        self._files.write_json(MARKER, marker)
        return marker

    def note(self, **facts: Any) -> dict[str, Any]:
        """Add to what predict.json says; returns all of it."""
        marker = {**self._files.read_json(MARKER), **facts}
        self._files.write_json(MARKER, marker)
        return marker

    def listed(self) -> dict[str, Any] | None:
        """What `note(listing=...)` noted, as long as the listing itself is there."""
        listing = self._files.read_json(MARKER).get("listing")
        return listing if self._files.exists(LISTING) else None

    def write_listing(self, index: int, table: pa.Table) -> None:
        """Write the images of a part: uri, row, label."""
        self._files.write_table(f"{LISTING}/{part_name(index)}", table)

    def listing(self, index: int) -> pa.Table:
        """The images of a part: uri, row, label."""
        return self._files.read_table(f"{LISTING}/{part_name(index)}")

    def delete_listing(self) -> None:
        """Remove the listing of all parts."""
        self._files.delete(LISTING)

    def has_parts(self, count: int) -> bool:
        """Whether the first so many parts are there."""
        return {part_name(index) for index in range(count)} <= set(self._files.names())

    def has_part(self, index: int) -> bool:
        """Whether a part is there."""
        return self._files.exists(part_name(index))

    def write_part(self, index: int, table: pa.Table) -> None:
        """Write the predictions of a part."""
        self._files.write_table(part_name(index), table)

    def part(self, index: int, columns: list[str]) -> pa.Table:
        """Some columns of a part."""
        return self._files.read_table(part_name(index), columns)

    def _of_this_format(self, marker: Any) -> bool:
        if (
            isinstance(marker, dict)
            and marker.get("format") == FORMAT
            and isinstance(marker.get("arguments"), dict)
        ):
            return True
        raise RunError(f"OUT {self.uri}: its {MARKER} is not of this version; give another place")

    def _refuse_others(self) -> None:
        """Nothing is written among files that are not of a prediction."""
        if self._files.exists(MARKER):
            return
        info = self._files.filesystem.get_file_info(self._files.root)
        if info.type == fs.FileType.File or set(self._files.names()) - {LEASE_FILE}:
            raise RunError(
                f"OUT {self.uri}: not empty, and no prediction that could be gone on with; give another place"
            )

    def _check_same(self, marker: dict[str, Any], wanted: dict[str, Any]) -> None:
        begun = marker["arguments"]
        differing = [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]
        if differing:
            changes = "; ".join(
                f"{name} was {_quoted(begun.get(name))}, now {_quoted(wanted.get(name))}"
                for name in differing
            )
            raise RunError(
                f"OUT {self.uri}: begun with other arguments ({changes}); give the same ones or another place"
            )


def _quoted(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

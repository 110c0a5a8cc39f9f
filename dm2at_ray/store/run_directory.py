"""The run directory: the single place of a run's state, on any pyarrow filesystem."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dm2at_ray.config import Config, differing_fields
from dm2at_ray.errors import RunError
from dm2at_ray.store.files import Files
from dm2at_ray.store.rounds import RoundDirectory


class RunDirectory:
    """A run's files: config, manifests, rounds and status.

    Args:
        uri: Local path or URI (`s3://bucket/run`) of the directory.
        files: The files there, where they are open already.
    """

    def __init__(self, uri: str, files: Files | None = None) -> None:
        self.uri = uri
        self.files = files or Files.at(uri)

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.files.root.rsplit("/", 1)[-1]

    def require(self) -> None:
        """Insist that a run is there.

        Raises:
            RunError: There is none.
        """
        if not self.files.exists("config.yaml"):
            raise RunError(
                f"run directory {self.uri}: no run there; give the directory that `dm2at run` printed"
            )

    def config(self) -> Config:
        """The resolved config that the run was begun with."""
        import yaml

        return Config.from_mapping(
            yaml.safe_load(self.files.read_bytes("config.yaml")), f"{self.uri}/config.yaml"
        )

    def check_config(self, config: Config) -> None:
        """Refuse a config that would change what the run has begun.

        Raises:
            RunError: Names the fields that differ, with both values.
        """
        if not self.files.exists("config.yaml"):
            return
        old = self.config()
        fields = differing_fields(old, config)
        if fields:
            changes = "; ".join(f"{f} was {_value(old, f)!r}, now {_value(config, f)!r}" for f in fields)
            raise RunError(
                f"run directory {self.uri}: begun under another config ({changes}); "
                "set the fields back or give another --run-dir"
            )

    def write_config(self, config: Config) -> None:
        """Keep the resolved config, with the resources that it runs under now."""
        self.files.write_bytes("config.yaml", config.to_yaml().encode())

    def manifest_files(self, split: str) -> Files:
        """Where the manifest of a split (`pool` or `test`) lies."""
        return self.files.below(f"{split}/manifest")

    def round(self, index: int) -> RoundDirectory:
        """One round's folder, which need not exist."""
        return RoundDirectory(self.files.below(f"rounds/{index:04d}"), index)

    def rounds(self) -> list[RoundDirectory]:
        """All rounds begun, in order."""
        indices = sorted(int(name) for name in self.files.names("rounds") if name.isdigit())
        return [self.round(index) for index in indices]

    def committed_rounds(self) -> list[RoundDirectory]:
        """All final rounds, in order."""
        return [r for r in self.rounds() if r.committed]

    def class_names(self) -> list[str]:
        """Names of the classes by their numbers, those that came later at the end; empty before the start."""
        return self.files.read_json("classes.json")["names"] if self.files.exists("classes.json") else []

    def write_class_names(self, names: list[str]) -> None:
        """Write the names of the classes; those that are there already keep their numbers.

        Raises:
            RunError: They would not.
        """
        before = self.class_names()
        if names[: len(before)] != before:
            raise RunError(
                f"run directory {self.uri}: its classes are {', '.join(before)}, now they are "
                f"{', '.join(names)}; keep the old ones in their order, and add new ones at the end"
            )
        if names != before:
            self.files.write_json("classes.json", {"names": names})

    def labels(self, rounds: int) -> pa.Table:
        """What is known of all samples that the first so many rounds asked for, with later corrections.

        Args:
            rounds: How many rounds.

        Returns:
            Columns sample_id and label (both int64; a null label is "cannot tell"), in the order of asking.
        """
        known: dict[int, int | None] = {}
        for index in range(rounds):
            round_ = self.round(index)
            for table in (round_.corrections(), round_.labels()):
                ids, labels = table["sample_id"].to_pylist(), table["label"].to_pylist()
                known.update(zip(ids, labels, strict=True))
        return pa.table(
            {
                "sample_id": pa.array(known.keys(), pa.int64()),
                "label": pa.array(known.values(), pa.int64()),
            }
        )

    def write_status(self, status: dict[str, Any]) -> None:
        """Write status.json: phase, round, counts."""
        self.files.write_json("status.json", status)

    def status(self) -> dict[str, Any]:
        """What status.json says; an empty dict before the first write."""
        return self.files.read_json("status.json") if self.files.exists("status.json") else {}


def _value(config: Config, field: str) -> object:
    value: object = config
    for part in field.split("."):
        value = getattr(value, part)
    return value

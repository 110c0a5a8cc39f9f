"""One round's folder: what each stage leaves, and the commit that makes it final."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dm2at_ray.store.files import Files
from dm2at_ray.store.twins import read_twins, rows_of_a_megabyte, twin_groups

if TYPE_CHECKING:
    # Torch is 400 MB of memory and seconds of start; who only looks at a run does without.
    import torch

    from dm2at_ray.models import ModelSpec

QUERIES_SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("predicted_label", pa.int64()),
        ("neighbor_ids", pa.list_(pa.int64())),
        ("neighbor_distances", pa.list_(pa.float32())),
    ]
)
LABELS_SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("label", pa.int64()),
        ("source", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
    ]
)
LABELED_NEIGHBORS_SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("labeled_neighbor_ids", pa.list_(pa.int64())),
        ("labeled_neighbor_distances", pa.list_(pa.float32())),
    ]
)


class RoundDirectory:
    """`rounds/NNNN`: queries, neighbours, twins, labels, model, metrics, and `COMMITTED`, written last.

    A stage whose files are there is not done again; what a killed stage left half-done is written anew.

    Args:
        files: The round's folder.
        index: The round, from 0.
    """

    def __init__(self, files: Files, index: int) -> None:
        self.files = files
        self.index = index

    @property
    def committed(self) -> bool:
        """Whether the round is final."""
        return self.files.exists("COMMITTED")

    @property
    def begun(self) -> bool:
        """Whether the round has begun, on a pool that stays as it is until the round is over."""
        return self.files.exists("begun.json")

    def begin(self, pool_size: int) -> None:
        """Note that the round begins, on a pool of so many sample ids."""
        self.files.write_json("begun.json", {"pool": pool_size})

    @property
    def has_queries(self) -> bool:
        """Whether the round's queries are chosen."""
        return self.files.exists("queries.parquet")

    def write_queries(self, queries: pa.Table) -> None:
        """Write the queries, best first (`QUERIES_SCHEMA`)."""
        self.files.write_table("queries.parquet", queries.cast(QUERIES_SCHEMA))

    def queries(self) -> pa.Table:
        """The queries, best first (`QUERIES_SCHEMA`)."""
        return self.files.read_table("queries.parquet")

    def query_ids(self) -> np.ndarray:
        """Sample ids of the queries, best first, int64 (B,)."""
        return self.files.read_table("queries.parquet", ["sample_id"])["sample_id"].to_numpy()

    @property
    def has_labels(self) -> bool:
        """Whether the oracle has answered."""
        return self.files.exists("labels.parquet")

    def write_labels(self, labels: pa.Table) -> None:
        """Write the oracle's answers (`LABELS_SCHEMA`)."""
        self.files.write_table("labels.parquet", labels.cast(LABELS_SCHEMA))

    def labels(self) -> pa.Table:
        """The oracle's answers (`LABELS_SCHEMA`); a null label is "cannot tell"."""
        return self.files.read_table("labels.parquet")

    @property
    def has_corrections(self) -> bool:
        """Whether it is settled which labels of earlier rounds have changed."""
        return self.files.exists("corrections.parquet")

    def write_corrections(self, corrections: pa.Table) -> None:
        """Write the labels of earlier rounds' samples that came or changed since (`LABELS_SCHEMA`)."""
        self.files.write_table("corrections.parquet", corrections.cast(LABELS_SCHEMA))

    def corrections(self) -> pa.Table:
        """Labels of earlier rounds' samples as they are from this round on (`LABELS_SCHEMA`)."""
        if not self.has_corrections:
            return LABELS_SCHEMA.empty_table()
        return self.files.read_table("corrections.parquet")

    @property
    def has_export(self) -> bool:
        """Whether the queries were put before people."""
        return self.files.exists("export.json")

    def write_export(self, folder: str) -> None:
        """Note where the queries were exported to."""
        self.files.write_json("export.json", {"folder": folder})

    @property
    def has_labeled_neighbors(self) -> bool:
        """Whether the queries' nearest labeled samples are known."""
        return self.files.exists("context.parquet")

    def write_labeled_neighbors(self, found: pa.Table) -> None:
        """Write each query's nearest labeled samples, for those who label (`LABELED_NEIGHBORS_SCHEMA`)."""
        self.files.write_table("context.parquet", found.cast(LABELED_NEIGHBORS_SCHEMA))

    def labeled_neighbors(self) -> pa.Table:
        """Each query's nearest labeled samples (`LABELED_NEIGHBORS_SCHEMA`)."""
        return self.files.read_table("context.parquet")

    def adversarial_part(self, part: int) -> str:
        """Name of a part of the adversarial twins."""
        return f"adversarial/part-{part:05d}.parquet"

    def has_adversarial(self, parts: int) -> bool:
        """Whether all parts of the adversarial twins are there."""
        return all(self.files.exists(self.adversarial_part(p)) for p in range(parts))

    def write_adversarial(self, part: int, twins: pa.Table) -> None:
        """Write a part of the adversarial twins, columns as `adversarial` has them.

        Its row groups are small, so that one twin can be looked at without reading the others.
        """
        self.files.write_table(self.adversarial_part(part), twins, rows_of_a_megabyte(twins))

    def adversarial(self) -> pa.Table | None:
        """Columns sample_id, predicted_label, image (uint8 tensor H, W, C); None in a round without twins."""
        parts = [self.files.read_table(f"adversarial/{name}") for name in self.files.names("adversarial")]
        return pa.concat_tables(parts) if parts else None

    def twins(self, sample_ids: Iterable[int]) -> pa.Table | None:
        """The rows of `adversarial` of some samples, without reading all; None where none has a twin."""
        return read_twins(self.files, twin_groups(self.files), sample_ids)

    @property
    def has_model(self) -> bool:
        """Whether the round's model is trained."""
        return self.files.exists("model/model.json")

    def write_model(self, weights: bytes, spec: ModelSpec, training: dict[str, Any]) -> None:
        """Write the trained model: safetensors, then the JSON that says it is complete.

        Args:
            weights: The state dict as a safetensors file.
            spec: What it is the state of.
            training: What the training measured.
        """
        self.files.write_bytes("model/model.safetensors", weights)
        self.files.write_json("model/model.json", {"spec": asdict(spec), "training": training})

    def model_spec(self) -> ModelSpec:
        """What the trained model is."""
        from dm2at_ray.models import ModelSpec

        return ModelSpec(**self.files.read_json("model/model.json")["spec"])

    def training(self) -> dict[str, Any]:
        """What the training measured."""
        return self.files.read_json("model/model.json")["training"]

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained model's state dict, on the CPU."""
        import safetensors.torch

        return safetensors.torch.load(self.files.read_bytes("model/model.safetensors"))

    @property
    def has_metrics(self) -> bool:
        """Whether the round's metrics are written."""
        return self.files.exists("metrics.json")

    def metrics(self) -> dict[str, Any]:
        """Everything reported for the round."""
        return self.files.read_json("metrics.json")

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write everything reported for the round."""
        self.files.write_json("metrics.json", metrics)

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """What `dm2at evaluate` measured later on: attack -> its result."""
        names = self.files.names("evaluations")
        return {name.removesuffix(".json"): self.files.read_json(f"evaluations/{name}") for name in names}

    def write_evaluation(self, attack: str, result: dict[str, Any]) -> None:
        """Write what was measured under an attack later on; the round's own metrics stay as they are."""
        self.files.write_json(f"evaluations/{attack}.json", result)

    def stage_costs(self) -> dict[str, dict[str, Any]]:
        """Costs of the stages done so far: stage -> {seconds, images, nodes (images by node)}."""
        return self.files.read_json("stages.json") if self.files.exists("stages.json") else {}

    def add_stage_cost(
        self, stage: str, seconds: float, images: int, nodes: dict[str, int] | None = None
    ) -> None:
        """Note what a finished stage cost, so that a resumed round still reports it."""
        costs = self.stage_costs()
        cost: dict[str, Any] = {"seconds": round(seconds, 3), "images": images}
        costs[stage] = {**cost, "nodes": nodes} if nodes else cost
        self.files.write_json("stages.json", costs)

    def commit(self) -> None:
        """Remove what only the round's own stages needed, then make the round final."""
        for scratch in ("neighbors", "train"):
            self.files.delete(scratch)
        self.files.write_bytes("COMMITTED", b"")

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch

from dm2at_ray.models import ModelSpec
from dm2at_ray.store import RoundDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.store.rounds import LABELS_SCHEMA, QUERIES_SCHEMA
from dm2at_ray.store.tensors import tensor_array, tensor_column


@pytest.fixture
def round_(tmp_path: Path) -> RoundDirectory:
    return RoundDirectory(Files.at(str(tmp_path / "rounds" / "0003")), 3)


def test_round__a_new_one_has_nothing(round_: RoundDirectory) -> None:
    assert not round_.committed
    there = [round_.has_queries, round_.has_labels, round_.has_model, round_.has_metrics]
    assert not any([*there, round_.has_adversarial(1)])
    assert round_.adversarial() is None
    assert round_.stage_costs() == {}


def test_queries__round_trip_in_order(round_: RoundDirectory) -> None:
    queries = pa.table(
        {
            "sample_id": [7, 3],
            "rank": [0, 1],
            "score": [0.75, 0.5],
            "predicted_label": [1, 2],
            "neighbor_ids": [[1, 2], [7, 9]],
            "neighbor_distances": [[0.5, 1.0], [0.25, 2.0]],
        }
    )
    round_.write_queries(queries)
    assert round_.has_queries
    assert round_.queries().schema.equals(QUERIES_SCHEMA)
    assert round_.queries().to_pydict() == queries.to_pydict()
    assert round_.query_ids().tolist() == [7, 3]
    assert round_.query_ids().dtype == np.int64


def test_queries__refuses_other_columns(round_: RoundDirectory) -> None:
    with pytest.raises(ValueError, match="field names"):
        round_.write_queries(pa.table({"sample_id": [7]}))
    assert not round_.has_queries


def test_labels__round_trip(round_: RoundDirectory) -> None:
    when = datetime(2025, 11, 3, 12, tzinfo=timezone.utc)
    round_.write_labels(
        pa.table({"sample_id": [7, 3], "label": [1, 0], "source": ["simulated"] * 2, "time": [when] * 2})
    )
    assert round_.has_labels
    assert round_.labels().schema.equals(LABELS_SCHEMA)
    assert round_.labels()["time"].to_pylist() == [when, when]


def test_adversarial__is_there_when_all_parts_are(round_: RoundDirectory) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    for part, rows in enumerate((slice(0, 2), slice(2, 3))):
        assert not round_.has_adversarial(2)
        table = pa.table(
            {
                "sample_id": np.arange(3)[rows],
                "predicted_label": np.zeros(3, int)[rows],
                "image": tensor_column(images[rows]),
            }
        )
        round_.files.write_table(round_.adversarial_part(part), table)
    assert round_.has_adversarial(2)
    crafted = round_.adversarial()
    assert crafted is not None
    assert crafted["sample_id"].to_pylist() == [0, 1, 2]
    np.testing.assert_array_equal(tensor_array(crafted["image"]), images)


def test_model__round_trip_without_pickle(round_: RoundDirectory) -> None:
    spec = ModelSpec("small_cnn", num_classes=3, channels=1, image_size=8, mean=(0.25,), std=(0.5,))
    model = spec.build(seed=1)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    round_.write_model(safetensors.torch.save(state), spec, {"steps": 12})
    assert round_.has_model
    assert round_.model_spec() == spec
    assert round_.training() == {"steps": 12}
    again = spec.build(seed=2)
    again.load_state_dict(round_.weights())
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(again.eval()(images), model.eval()(images), rtol=0, atol=0)


def test_model__weights_alone_are_no_model(round_: RoundDirectory) -> None:
    round_.files.write_bytes("model/model.safetensors", b"")
    assert not round_.has_model


def test_metrics__round_trip(round_: RoundDirectory) -> None:
    round_.write_metrics({"round": 3, "accuracy": {"clean": 0.5}})
    assert round_.has_metrics
    assert round_.metrics() == {"round": 3, "accuracy": {"clean": 0.5}}


def test_stage_costs__add_up_over_restarts(round_: RoundDirectory) -> None:
    round_.add_stage_cost("embed", 1.23456, 100)
    again = RoundDirectory(round_.files, 3)
    again.add_stage_cost("score", 2.0, 100)
    again.add_stage_cost("embed", 3.0, 90)
    assert round_.stage_costs() == {
        "embed": {"seconds": 3.0, "images": 90},
        "score": {"seconds": 2.0, "images": 100},
    }


def test_commit__is_the_last_that_happens_to_a_round(
    round_: RoundDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("neighbors/ids-0.parquet", "train/fit/checkpoint", "metrics.json", "model/model.json"):
        round_.files.write_bytes(name, b"{}")
    seen: list[bool] = []
    delete = Files.delete

    def watched(self: Files, name: str) -> None:
        seen.append(round_.committed)
        delete(self, name)

    monkeypatch.setattr(Files, "delete", watched)
    round_.commit()
    assert seen == [False, False], "the scratch goes first"
    assert round_.committed
    assert round_.files.names() == ["COMMITTED", "metrics.json", "model"]


def test_commit__that_cannot_be_written_leaves_the_round_open(
    round_: RoundDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    round_.write_metrics({"round": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            round_.commit()
    assert not round_.committed
    assert round_.files.names() == ["metrics.json"]


def test_evaluations__stay_beside_a_round_that_is_committed(round_: RoundDirectory) -> None:
    assert round_.evaluations() == {}
    round_.write_metrics({"accuracy": {"pgd": 0.5}})
    round_.write_evaluation("pgd", {"accuracy": 0.25})
    round_.commit()
    round_.write_evaluation("autoattack", {"accuracy": 0.125})
    assert round_.evaluations() == {"autoattack": {"accuracy": 0.125}, "pgd": {"accuracy": 0.25}}
    assert round_.metrics() == {"accuracy": {"pgd": 0.5}}

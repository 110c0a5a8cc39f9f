"""Who answers a round's queries: people, in parts, with corrections and new classes; or the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dm2at_ray.config import Config
from dm2at_ray.errors import RunError
from dm2at_ray.labeling.book import LabelBook
from dm2at_ray.oracles import Answers, PeopleOracle, SourceOracle, awaited_round, make_oracle, waiting_words
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.rounds import QUERIES_SCHEMA

from .stages.digits_run import DigitsRun, make_digits_run


def config(**query: object) -> Config:
    return Config.from_mapping({"query": {"oracle": "files", **query}})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Round 0 is chosen: four queries."""
    run = RunDirectory(str(tmp_path / "run"))
    run.write_class_names(["cat", "dog"])
    ask(run, 0, [40, 10, 30, 20])
    return run


def ask(run: RunDirectory, index: int, ids: list[int]) -> None:
    nothing = {name: pa.nulls(len(ids), QUERIES_SCHEMA.field(name).type) for name in QUERIES_SCHEMA.names}
    run.round(index).write_queries(pa.table({**nothing, "sample_id": ids}))


def say(run: RunDirectory, given: dict[int, str | None]) -> None:
    table = pa.table({"sample_id": list(given), "label": pa.array(given.values(), pa.string())})
    LabelBook(run).append(table.append_column("round", pa.array([0] * len(given), pa.int32())), "anna")


def answers(run: RunDirectory, index: int = 0, **query: object) -> Answers | None:
    return PeopleOracle(run, config(**query)).answers(run.round(index))


def freeze(run: RunDirectory, index: int) -> Answers:
    """What the driver does with the answers."""
    found = answers(run, index)
    assert found is not None
    run.write_class_names(found.class_names)
    run.round(index).write_corrections(found.corrections)
    run.round(index).write_labels(found.labels)
    return found


def as_dict(table: pa.Table) -> dict[int, int | None]:
    return dict(zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_people__are_waited_for_until_all_have_answered(run: RunDirectory) -> None:
    assert answers(run) is None
    say(run, {10: "dog", 20: None, 40: "cat"})
    assert answers(run) is None
    assert waiting_words(run, config(), run.round(0)) == (
        "labels of 4 queries of round 0, 3 are there; `dm2at labels import` takes them"
    )
    say(run, {30: "dog"})
    found = answers(run)
    assert found is not None
    assert as_dict(found.labels) == {10: 1, 20: None, 30: 1, 40: 0}
    assert found.labels["source"].to_pylist() == ["anna"] * 4
    assert len(found.corrections) == 0


@pytest.mark.parametrize(("sufficient", "is_enough"), [(0.75, True), (0.76, False), (0.1, True)])
def test_people__a_share_may_suffice(run: RunDirectory, sufficient: float, is_enough: bool) -> None:
    say(run, {10: "dog", 20: None, 40: "cat"})
    found = answers(run, sufficient=sufficient)
    assert (found is not None) == is_enough
    assert found is None or as_dict(found.labels) == {10: 1, 20: None, 40: 0}, "the rest is left"


def test_people__somebody_says_that_it_is_enough(run: RunDirectory) -> None:
    say(run, {10: "dog"})
    LabelBook(run).accept_partial(0, "anna")
    found = answers(run)
    assert found is not None
    assert as_dict(found.labels) == {10: 1}


def test_people__who_can_tell_nothing_of_round_0(run: RunDirectory) -> None:
    say(run, dict.fromkeys((10, 20, 30, 40)))
    with pytest.raises(RunError, match="of the 4 queries of round 0 none has a label"):
        answers(run)


def test_people__corrections_and_late_answers_come_with_the_next_round(run: RunDirectory) -> None:
    say(run, {10: "dog", 20: None, 40: "cat"})
    LabelBook(run).accept_partial(0, "anna")
    freeze(run, 0)
    ask(run, 1, [50])
    say(run, {10: "cat", 20: "dog", 30: "cat", 50: "dog"})
    found = freeze(run, 1)
    assert as_dict(found.labels) == {50: 1}
    assert as_dict(found.corrections) == {10: 0, 20: 1, 30: 0}
    ask(run, 2, [60])
    say(run, {60: "cat"})
    assert len(freeze(run, 2).corrections) == 0, "what was corrected already is none again"
    assert as_dict(run.labels(3)) == {10: 0, 20: 1, 40: 0, 30: 0, 50: 1, 60: 0}


def test_people__name_new_classes_in_the_order_of_their_words(run: RunDirectory) -> None:
    say(run, {40: "toad"})
    say(run, {10: "dog", 20: "newt", 30: "toad"})
    found = freeze(run, 0)
    assert found.class_names == ["cat", "dog", "toad", "newt"]
    assert as_dict(found.labels) == {10: 1, 20: 3, 30: 2, 40: 2}


def test_awaited_round__is_the_one_that_lacks_answers(run: RunDirectory) -> None:
    assert awaited_round(run, config()) is None, "the driver has more to do than to wait"
    run.write_status({"phase": "awaiting_labels", "round": 0})
    found = awaited_round(run, config())
    assert found is not None
    assert found.index == 0
    assert awaited_round(run, Config()) is None
    say(run, dict.fromkeys((10, 20, 30), "dog"))
    assert awaited_round(run, config(sufficient=0.75)) is None
    say(run, {40: "cat"})
    assert awaited_round(run, config()) is None


def test_source__reveals_its_labels_with_the_mistakes_that_are_asked_for(tmp_path: Path) -> None:
    digits: DigitsRun = make_digits_run(str(tmp_path / "digits"))
    run, pool = digits.directory, digits.context(0).pool()
    run.write_class_names(list("0123456789"))
    ids = digits.queries[1]
    found = make_oracle(run, Config()).answers(run.round(1), pool)
    assert found is not None
    assert as_dict(found.labels) == dict(zip(ids.tolist(), digits.labels[ids].tolist(), strict=True))
    assert set(found.labels["source"].to_pylist()) == {"simulated"}
    noisy = Config.from_mapping({"query": {"label_noise": 0.9}})
    wrong = SourceOracle(run, noisy).answers(run.round(1), pool).labels["label"].to_numpy()
    assert (wrong != digits.labels[ids]).mean() > 0.5
    assert set(wrong) <= set(range(10))
    assert np.array_equal(wrong, SourceOracle(run, noisy).answers(run.round(1), pool).labels["label"])

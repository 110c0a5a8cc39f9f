"""The exposition is read back with prometheus_client's own parser and compared value by value."""

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dm2at_ray.monitoring.metrics import RunMetrics

RUN = "digits"
CLASSES = ["cat", "dog"]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exposed(metrics: RunMetrics) -> Samples:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def without_clock(metrics: RunMetrics) -> Samples:
    """What does not tell when it was asked for."""
    return {
        key: number
        for key, number in exposed(metrics).items()
        if key[0] != "dm2at_last_progress_timestamp_seconds"
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset({"run": RUN, **labels}.items())))


def live(metrics: RunMetrics, rounds: list[dict[str, Any]]) -> None:
    """What a driver does in rounds that nothing interrupts."""
    for reported in rounds:
        metrics.round_started(reported["round"])
        for stage, seconds in reported["stage_seconds"].items():
            metrics.stage_finished(stage, seconds, reported["stage_images"][stage])
        metrics.round_committed(reported)


def test_exposition__every_name_has_the_prefix_and_every_series_its_run(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    live(metrics, rounds)
    for name, labels in exposed(metrics):
        assert name.startswith("dm2at_")
        assert ("run", RUN) in labels
        assert not name.endswith("_created")


def test_exposition__counters_exist_at_zero_before_anything_happened() -> None:
    samples = exposed(RunMetrics(RUN, CLASSES))
    assert value(samples, "dm2at_rounds_committed_total") == 0
    assert value(samples, "dm2at_query_score_count") == 0
    for stage in ("embed", "neighbors", "score", "craft", "label", "train", "evaluate"):
        assert value(samples, "dm2at_stage_seconds_total", stage=stage) == 0
        assert value(samples, "dm2at_stage_images_total", stage=stage) == 0
    for name in CLASSES:
        assert value(samples, "dm2at_queries_total", **{"class": name}) == 0


def test_exposition__what_was_not_measured_is_not_claimed() -> None:
    samples = exposed(RunMetrics(RUN, CLASSES))
    names = {name for name, _ in samples}
    assert not names & {"dm2at_accuracy_ratio", "dm2at_class_accuracy_ratio", "dm2at_loss"}
    assert value(samples, "dm2at_label_budget_images") == math.inf


def test_round_committed__two_rounds(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.label_budget_set(40)
    live(metrics, rounds)
    samples = exposed(metrics)

    expected: Mapping[str, float] = {
        "dm2at_round": 1,
        "dm2at_rounds_committed_total": 2,
        "dm2at_labeled_images": 24,
        "dm2at_pool_images": 96,
        "dm2at_rejected_images": 1,
        "dm2at_label_budget_images": 40,
        "dm2at_train_accuracy_ratio": 0.96875,
    }
    assert {name: value(samples, name) for name in expected} == expected
    assert value(samples, "dm2at_accuracy_ratio", attack="clean") == 0.875
    assert value(samples, "dm2at_accuracy_ratio", attack="pgd") == 0.5
    assert value(samples, "dm2at_class_accuracy_ratio", attack="fgsm", **{"class": "cat"}) == 0.75
    assert value(samples, "dm2at_loss", kind="clean") == 0.5
    assert value(samples, "dm2at_loss", kind="adversarial") == 1.0
    assert value(samples, "dm2at_loss", kind="total") == 0.75
    assert value(samples, "dm2at_queries_total", **{"class": "cat"}) == 12 + 1
    assert value(samples, "dm2at_queries_total", **{"class": "dog"}) == 8 + 3
    assert value(samples, "dm2at_stage_seconds_total", stage="train") == 8.0 + 4.0
    assert value(samples, "dm2at_stage_last_seconds", stage="train") == 4.0
    assert value(samples, "dm2at_stage_images_total", stage="train") == 400 + 480
    assert value(samples, "dm2at_stage_seconds_total", stage="embed") == 1.5


def test_round_committed__scores_are_counted_exactly(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    live(metrics, rounds)
    samples = exposed(metrics)
    assert value(samples, "dm2at_query_score_sum") == 2.25 + 0.625 + 0.5 + 0.125
    assert value(samples, "dm2at_query_score_count") == 4
    cumulative = {
        bound: value(samples, "dm2at_query_score_bucket", le=bound) for bound in ("0.1", "0.5", "0.7", "2.0")
    }
    assert cumulative == {"0.1": 0, "0.5": 2, "0.7": 3, "2.0": 3}
    assert value(samples, "dm2at_query_score_bucket", le="2.25") == 4
    assert value(samples, "dm2at_query_score_bucket", le="+Inf") == 4


def test_phase_changed__one_phase_at_a_time() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.phase_changed("selecting")
    metrics.phase_changed("awaiting_labels")
    samples = exposed(metrics)
    phases = {
        dict(labels)["phase"]: number for (name, labels), number in samples.items() if name == "dm2at_phase"
    }
    assert phases == {
        "starting": 0,
        "selecting": 0,
        "awaiting_labels": 1,
        "training": 0,
        "done": 0,
        "failed": 0,
        "interrupted": 0,
    }
    with pytest.raises(ValueError, match="'paused'"):
        metrics.phase_changed("paused")


def test_stage_finished__is_seen_before_the_round_is_committed() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.stage_finished("embed", 1.5, 100)
    samples = exposed(metrics)
    assert value(samples, "dm2at_stage_seconds_total", stage="embed") == 1.5
    assert value(samples, "dm2at_stage_images_total", stage="embed") == 100
    assert value(samples, "dm2at_rounds_committed_total") == 0


def test_restore__same_exposition_as_living_through_the_rounds(rounds: list[dict[str, Any]]) -> None:
    lived, restored = RunMetrics(RUN, CLASSES), RunMetrics(RUN, CLASSES)
    live(lived, rounds)
    restored.restore(rounds)
    assert without_clock(restored) == without_clock(lived)


@pytest.mark.parametrize("finished", range(8))
def test_restore__after_a_kill_behind_any_stage(rounds: list[dict[str, Any]], finished: int) -> None:
    uninterrupted = RunMetrics(RUN, CLASSES)
    live(uninterrupted, rounds)
    done = dict(list(rounds[1]["stage_seconds"].items())[:finished])
    before_kill = RunMetrics(RUN, CLASSES)
    live(before_kill, rounds[:1])
    for stage, seconds in done.items():
        before_kill.stage_finished(stage, seconds, rounds[1]["stage_images"][stage])

    resumed = RunMetrics(RUN, CLASSES)
    resumed.restore(rounds[:1], {"stage_seconds": done, "stage_images": rounds[1]["stage_images"]})
    assert without_clock(resumed) == without_clock(before_kill)

    resumed.round_started(1)
    for stage in list(rounds[1]["stage_seconds"])[finished:]:
        resumed.stage_finished(stage, rounds[1]["stage_seconds"][stage], rounds[1]["stage_images"][stage])
    resumed.round_committed(rounds[1])
    assert without_clock(resumed) == without_clock(uninterrupted)


def test_restore__stages_done_before_the_kill_are_counted_at_the_commit(
    rounds: list[dict[str, Any]],
) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.restore(rounds[:1])
    metrics.stage_finished("evaluate", 2.0, 50)  # all the other stages had finished before the kill
    metrics.round_committed(rounds[1])
    samples = exposed(metrics)
    assert value(samples, "dm2at_stage_seconds_total", stage="evaluate") == 2.0 + 2.0
    assert value(samples, "dm2at_stage_seconds_total", stage="embed") == 1.5
    assert value(samples, "dm2at_stage_images_total", stage="train") == 400 + 480


def test_round_committed__stages_of_the_round_before_do_not_hide_those_of_this_one(
    rounds: list[dict[str, Any]],
) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    live(metrics, rounds[:1])
    metrics.round_committed(rounds[1])
    samples = exposed(metrics)
    assert value(samples, "dm2at_stage_seconds_total", stage="train") == 8.0 + 4.0
    assert value(samples, "dm2at_stage_images_total", stage="label") == 20 + 4


def looked(*looks: tuple[float, str | None, str | None]) -> dict[str, Any]:
    """What a training says of looks given as PGD accuracy, collapse and answer."""
    found = [
        {"clean": 0.75, "fgsm": 0.5, "pgd": pgd, "collapse": collapse, "answer": answer}
        for pgd, collapse, answer in looks
    ]
    return {"stability": {"held_out": 50, "looks": found}}


def test_round_committed__counts_answered_collapses_by_kind(rounds: list[dict[str, Any]]) -> None:
    overfitted = ("overfitting", "switch_attack")
    rounds[0]["training"] = looked((0.5, None, None), (0.0, *overfitted), (0.0, *overfitted))
    rounds[1]["training"] = looked((0.5, "inversion", "warn"), (0.5, "inversion", None), (0.25, None, None))
    metrics = RunMetrics(RUN, CLASSES)
    samples = exposed(metrics)
    for kind in ("overfitting", "inversion"):
        assert value(samples, "dm2at_training_collapses_total", kind=kind) == 0
    assert value(samples, "dm2at_validation_accuracy_ratio", attack="pgd") is None

    live(metrics, rounds)
    samples = exposed(metrics)
    assert value(samples, "dm2at_training_collapses_total", kind="overfitting") == 2
    assert value(samples, "dm2at_training_collapses_total", kind="inversion") == 1
    shown = {a: value(samples, "dm2at_validation_accuracy_ratio", attack=a) for a in ("clean", "fgsm", "pgd")}
    assert shown == {"clean": 0.75, "fgsm": 0.5, "pgd": 0.25}

    restarted = RunMetrics(RUN, CLASSES)
    restarted.restore(rounds)
    assert without_clock(restarted) == without_clock(metrics)


def test_validation_measured__is_seen_while_the_training_goes_on() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.validation_measured({"clean": 0.5, "pgd": 0.25})
    assert value(exposed(metrics), "dm2at_validation_accuracy_ratio", attack="pgd") == 0.25


def test_restore__only_before_anything_is_counted(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.restore(rounds)
    with pytest.raises(ValueError, match="before counting"):
        metrics.restore(rounds)


def test_series__bounded_for_many_classes(rounds: list[dict[str, Any]]) -> None:
    count = 1500
    many = copy.deepcopy(rounds[1])
    many["queries_by_class"] = [1] * count
    many["accuracy_by_class"] = {
        attack: [1.0] * 1000 + [0.5] * 250 + [0.25] * 249 + [None] for attack in ("clean", "fgsm", "pgd")
    }
    metrics = RunMetrics(RUN, [f"class {index}" for index in range(count)])
    metrics.round_committed(many)
    samples = exposed(metrics)

    assert value(samples, "dm2at_queries_total", **{"class": "class 999"}) == 1
    assert value(samples, "dm2at_queries_total", **{"class": "class 1000"}) is None
    assert value(samples, "dm2at_queries_total", **{"class": "other"}) == 500
    other = value(samples, "dm2at_class_accuracy_ratio", attack="pgd", **{"class": "other"})
    assert other == pytest.approx((250 * 0.5 + 249 * 0.25) / 499)
    by_class = [name for name, labels in samples if any(label == "class" for label, _ in labels)]
    assert len(by_class) == 1001 + 3 * 1001
    assert len(samples) - len(by_class) < 150


def test_series__bounded_for_many_nodes_and_exact_in_all(rounds: list[dict[str, Any]]) -> None:
    rounds[1]["stage_images_by_node"] = {"embed": {f"10.0.{n // 250}.{n % 250}": 2 for n in range(600)}}
    metrics = RunMetrics(RUN, CLASSES)
    metrics.round_committed(rounds[1])
    by_node = {
        dict(labels)["node"]: number
        for (name, labels), number in exposed(metrics).items()
        if name == "dm2at_node_images_total"
    }
    assert len(by_node) == 257
    assert sum(by_node.values()) == 1200
    assert by_node["10.0.0.0"] == 2
    assert by_node["other"] == 2 * (600 - 256)


def test_series__classes_of_one_name_are_kept_apart(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, ["crane", "crane"])
    metrics.round_committed(rounds[0])
    samples = exposed(metrics)
    assert value(samples, "dm2at_queries_total", **{"class": "crane (0)"}) == 12
    assert value(samples, "dm2at_queries_total", **{"class": "crane (1)"}) == 8


def test_series__a_class_name_with_quotes_and_newlines_survives(rounds: list[dict[str, Any]]) -> None:
    awkward = 'a "b"\\ \n<c>'
    metrics = RunMetrics(RUN, [awkward, "dog"])
    metrics.round_committed(rounds[0])
    assert value(exposed(metrics), "dm2at_queries_total", **{"class": awkward}) == 12


def test_budget_left__goes_down_with_the_labels(rounds: list[dict[str, Any]]) -> None:
    metrics = RunMetrics(RUN, CLASSES)
    assert value(exposed(metrics), "dm2at_label_budget_left_images") == math.inf
    metrics.label_budget_set(30)
    live(metrics, rounds)
    assert value(exposed(metrics), "dm2at_label_budget_left_images") == 30 - 24
    metrics.sizes_changed(labeled=31, pool=0, rejected=0)
    assert value(exposed(metrics), "dm2at_label_budget_left_images") == 0


def test_round_scores__are_the_histogram_of_the_last_round_alone(rounds: list[dict[str, Any]]) -> None:
    rounds.append({**rounds[1], "round": 2, "query_scores": [0.5, 3.25]})
    metrics = RunMetrics(RUN, CLASSES)
    live(metrics, rounds)
    samples = exposed(metrics)

    def at_most(bound: str) -> float | None:
        return value(samples, "dm2at_round_query_scores_images", le=bound)

    bounds = ("0.4", "0.5", "3.0", "3.5", "+Inf")
    assert [at_most(bound) for bound in bounds] == [0, 1, 1, 2, 2]
    # Its buckets are those of the histogram over all rounds.
    les = {
        name: {dict(labels)["le"] for (each, labels) in samples if each == name}
        for name in ("dm2at_round_query_scores_images", "dm2at_query_score_bucket")
    }
    assert les["dm2at_round_query_scores_images"] == les["dm2at_query_score_bucket"]


def test_nodes_joined__counters_begin_at_zero() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.nodes_joined(["10.0.0.1"])
    for stage in ("embed", "score", "craft", "evaluate"):
        assert value(exposed(metrics), "dm2at_node_images_total", stage=stage, node="10.0.0.1") == 0
    metrics.stage_finished("embed", 2.0, 100, {"10.0.0.1": 100})
    metrics.nodes_joined(["10.0.0.1", "10.0.0.2"])
    samples = exposed(metrics)
    assert value(samples, "dm2at_node_images_total", stage="embed", node="10.0.0.1") == 100
    assert value(samples, "dm2at_node_images_total", stage="embed", node="10.0.0.2") == 0


def test_stage_advanced__shows_the_rate_so_far() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    metrics.stage_advanced("embed", 0.0, 0)
    assert value(exposed(metrics), "dm2at_stage_images_per_second", stage="embed") is None
    metrics.stage_advanced("embed", 2.0, 100, {"10.0.0.1": 75, "10.0.0.2": 25})
    samples = exposed(metrics)
    assert value(samples, "dm2at_stage_images_per_second", stage="embed") == 50
    assert value(samples, "dm2at_node_images_per_second", stage="embed", node="10.0.0.1") == 37.5
    assert value(samples, "dm2at_stage_images_total", stage="embed") == 0


def test_collapse_seen__lasts_until_a_look_finds_none() -> None:
    metrics = RunMetrics(RUN, CLASSES)

    def shown() -> list[float | None]:
        samples = exposed(metrics)
        return [value(samples, "dm2at_training_collapsed", kind=k) for k in ("overfitting", "inversion")]

    assert shown() == [0, 0]
    metrics.collapse_seen("overfitting")
    assert shown() == [1, 0]
    metrics.collapse_seen("inversion")
    assert shown() == [0, 1]
    metrics.collapse_seen(None)
    assert shown() == [0, 0]


def test_progress__moves_with_every_word_of_a_stage() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    before = time.time()
    metrics.stage_finished("embed", 1.0, 10)
    at = value(exposed(metrics), "dm2at_last_progress_timestamp_seconds")
    assert at is not None
    assert before <= at <= time.time()


def test_disk__is_asked_for_with_every_scrape() -> None:
    metrics = RunMetrics(RUN, CLASSES)
    free = iter([3.0, 2.0])
    metrics.disk_watched(lambda: next(free), lambda: 10.0)
    assert value(exposed(metrics), "dm2at_run_directory_free_bytes") == 3
    assert value(exposed(metrics), "dm2at_run_directory_free_bytes") == 2
    metrics.disk_watched(lambda: 1.0, lambda: 10.0)
    assert value(exposed(metrics), "dm2at_run_directory_size_bytes") == 10

"""What a client's config may name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dm2at_ray.service.checks import LONGEST_DETAIL, ConfigChecks
from dm2at_ray.service.problems import ProblemError

MODEL = "nets:net"


def checks(*roots: Path | str, models: tuple[str, ...] = (MODEL,)) -> ConfigChecks:
    return ConfigChecks(tuple(map(str, roots)), models)


def problem_of(text: str, *roots: Path | str) -> tuple[str, str]:
    with pytest.raises(ProblemError) as refused:
        checks(*roots).read(text, "mine")
    return refused.value.kind, str(refused.value)


def data(path: object, **fields: object) -> str:
    return yaml.safe_dump({"data": {"source": "image_folder", "path": str(path), **fields}})


def test_read__has_the_name_of_the_run() -> None:
    config = checks().read("name: other\nseed: 7\n", "mine")
    assert (config.name, config.seed) == ("mine", 7)
    assert checks().read("", "mine").name == "mine", "every field has a default"


def test_read__takes_data_in_the_roots(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    config = checks(tmp_path, "s3://bucket/images").read(
        data(tmp_path / "cats", test_path="s3://bucket/images/test"), "mine"
    )
    assert config.data.path == str(tmp_path / "cats")


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "{root}-more",
        "{root}/../other",
        "{root}/link",
        "{root}/link/inside",
        "s3://bucket/images-more",
        "s3://bucket/images/../secret",
        "s3://bucket/images/%2e%2e/secret",
        "s3://bucket/images?endpoint_override=evil:9000",
        "s3://other/images",
        "gs://bucket/images",
        "file:///etc",
        "file://host{root}",
        "x://",
    ],
)
@pytest.mark.parametrize("field", ["data.path", "data.test_path", "model.weights"])
def test_read__refuses_what_lies_outside(tmp_path: Path, path: str, field: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "other").mkdir()
    (root / "link").symlink_to(tmp_path / "other")
    section, _, name = field.partition(".")
    values = {"data": {"source": "image_folder", "path": str(root)}, "model": {}}
    values[section][name] = path.format(root=root)
    kind, words = problem_of(yaml.safe_dump(values), root, "s3://bucket/images")
    assert (kind, words.split()[0]) == ("outside-roots", field)


@pytest.mark.parametrize("path", ["images", "~/images", "./x", "../x", "file:/etc"])
def test_read__refuses_what_is_relative_to_nothing(tmp_path: Path, path: str) -> None:
    assert problem_of(data(path), tmp_path)[0] == "bad-config"


def test_read__shows_no_secret(tmp_path: Path) -> None:
    kind, words = problem_of(data("s3://key:hushhush@bucket/images"), "s3://bucket/images")
    assert kind == "bad-config"
    assert "hushhush" not in words


def test_read__takes_only_models_that_the_service_was_started_with() -> None:
    assert checks().read(f"model: {{name: '{MODEL}'}}", "mine").model.name == MODEL
    for name in ("os:system", f"{MODEL}x", "nets:"):
        assert problem_of(f"model: {{name: '{name}'}}")[0] == "outside-roots"


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org", ""])
def test_read__lets_no_run_listen_for_others(host: str) -> None:
    assert problem_of(yaml.safe_dump({"monitoring": {"host": host}}))[0] == "bad-config"


def test_read__lets_a_run_listen_where_the_service_was_told_that_it_may() -> None:
    allowed = ConfigChecks((), (), ("0.0.0.0",))
    assert allowed.read("monitoring: {host: 0.0.0.0}", "mine").monitoring.host == "0.0.0.0"
    with pytest.raises(ProblemError, match=r"monitoring\.host = '::': .*--metrics-host"):
        allowed.read("monitoring: {host: '::'}", "mine")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_read__lets_a_run_listen_on_loopback(host: str) -> None:
    assert checks().read(yaml.safe_dump({"monitoring": {"host": host}}), "mine").monitoring.host == host


def test_read__lets_no_run_push_to_an_address() -> None:
    kind, words = problem_of("monitoring: {push_gateway: 'http://169.254.169.254/'}")
    assert (kind, words.split(":")[0]) == ("bad-config", "monitoring.push_gateway")


def test_read__lets_a_run_say_where_it_works() -> None:
    assert checks().read("compute: {actors: 3}", "mine").compute.actors == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("query: {sizes: 1}", "did you mean size"),
        ("query: {strategy: best}", "query.strategy = best: unknown"),
        ("training: {workers: 1, min_workers: 2}", "training.min_workers = 2"),
        ("[1, 2]", "not a mapping"),
        ("1: {}", "not a mapping"),
        ("a: [", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("seed: " + "9" * 10_000, "not valid YAML"),
        ("seed: 0x" + "f" * 10_000, "thousands of digits"),
        ("seed: 1" + ":1" * 30_000, "thousands of digits"),
        ("attack: {epsilon: '" + "9" * 4000 + "/7'}", "attack.epsilon"),
        ("a: &x 1\nb: *x", "YAML alias"),
        ("name: [1]", "name"),
    ],
)
def test_read__says_what_is_wrong(text: str, words: str) -> None:
    if words == "name":
        # The run's name takes its place.
        assert checks().read(text, "mine").name == "mine"
        return
    kind, detail = problem_of(text)
    assert kind == "bad-config"
    assert words in detail
    assert len(detail) <= LONGEST_DETAIL


@pytest.mark.parametrize("text", ["[", "{", "- ", "? ", "[a,", "[[]],"])
def test_read__of_what_is_nested_takes_no_long_time(text: str) -> None:
    """PyYAML alone takes minutes."""
    began = time.monotonic()
    assert problem_of((text * 65_536)[:65_536])[0] == "bad-config"
    assert time.monotonic() - began < 10


def test_read__of_a_few_lines_that_stand_for_gigabytes() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.monotonic()
    assert problem_of("\n".join(lines))[0] == "bad-config"
    assert time.monotonic() - began < 2


def test_read__says_no_more_than_fits() -> None:
    assert len(problem_of("query: {strategy: " + "x" * 60_000 + "}")[1]) <= LONGEST_DETAIL


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
SECTIONS = st.sampled_from(["data", "model", "query", "monitoring", "compute", "stop", "attack", "x"])
FIELDS = st.sampled_from(
    ["path", "name", "size", "host", "mean", "epsilon", "class_names", "source", "rounds"]
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner), max_leaves=5)


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=100)
    | st.dictionaries(SECTIONS, st.dictionaries(FIELDS, VALUES, max_size=3) | VALUES).map(yaml.safe_dump)
)
def test_read__whatever_is_sent_is_a_config_or_a_problem(text: str) -> None:
    try:
        checks().read(text, "mine")
    except ProblemError as problem:
        assert problem.kind in ("bad-config", "outside-roots")  # noqa: PT017 - most are sound

"""Ids, attempts, and what is refused before anything is sent; no Ray is running."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from dm2at_ray import Config
from dm2at_ray.errors import ConfigError, RunError
from dm2at_ray.submission import job as module
from dm2at_ray.submission.client import check_address
from dm2at_ray.submission.job import Submission, run_dir_for, submit

URL = "http://127.0.0.1:8265"


def submission(**fields: Any) -> Submission:
    defaults = {
        "config": Config.from_mapping({"name": "tiny"}),
        "address": URL,
        "run_dir": "s3://bucket/run",
        "working_dir": Path("."),
    }
    return Submission(**{**defaults, **fields})


def details(
    job_id: str, status: JobStatus = JobStatus.SUCCEEDED, run_dir: str = "s3://bucket/run"
) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=job_id,
        status=status,
        entrypoint="",
        metadata={module.RUN_DIR_KEY: run_dir},
    )


class Jobs(NamedTuple):
    """A job API that knows these jobs."""

    jobs: list[JobDetails]

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs


def test_base_id__is_the_same_for_the_same_run_only() -> None:
    one = submission()
    assert one.base_id == submission().base_id
    assert one.base_id.startswith("dm2at-tiny-")
    others = [
        submission(run_dir="s3://bucket/other"),
        submission(config=Config.from_mapping({"name": "tiny", "seed": 1})),
        submission(submission_id="mine"),
    ]
    assert len({one.base_id, *(other.base_id for other in others)}) == 4


def test_entrypoint__quotes_the_run_directory() -> None:
    line = submission(run_dir="/shared/my runs/$(touch x)").entrypoint
    assert line == "python -m dm2at_ray run .dm2at/config.yaml --run-dir '/shared/my runs/$(touch x)'"


@pytest.mark.parametrize(
    ("there", "next_id"),
    [
        ([], "mine"),
        (["mine"], "mine-2"),
        (["mine", "mine-2", "mine-10"], "mine-11"),
        (["mine-1", "mine-02", "mine-x", "other", "minever"], "mine"),
    ],
)
def test_next_id__counts_attempts(there: list[str], next_id: str) -> None:
    attempts = module._attempts([details(name) for name in there], "mine")
    assert module._next_id(attempts, "mine") == next_id


def test_start_attempt__attaches_to_one_that_was_submitted_while_this_one_was_packed(tmp_path: Path) -> None:
    client: Any = Jobs([details("mine", JobStatus.FAILED), details("mine-2", JobStatus.PENDING)])
    wanted = submission(submission_id="mine", working_dir=tmp_path)
    assert module.start_attempt(client, wanted, print, patience=0.0) == "mine-2"


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_living__is_the_attempt_that_has_not_ended(status: JobStatus) -> None:
    client: Any = Jobs(
        [details("mine", JobStatus.FAILED), details("mine-3", status), details("mine-2", JobStatus.STOPPED)]
    )
    assert module._living(client, submission(submission_id="mine")) == "mine-3"


def test_living__is_none_when_all_have_ended() -> None:
    client: Any = Jobs([details("mine"), details("mine-2", JobStatus.STOPPED)])
    assert module._living(client, submission(submission_id="mine")) is None


def test_living__refuses_a_run_directory_that_another_job_works_on() -> None:
    client: Any = Jobs([details("theirs", JobStatus.RUNNING), details("mine")])
    with pytest.raises(RunError, match=r"s3://bucket/run: job theirs works on it.*ray job stop .* theirs"):
        module._living(client, submission(submission_id="mine"))
    assert module._living(client, submission(run_dir="s3://bucket/free")) is None


def test_run_dir_for__left_out_or_relative_is_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.from_mapping({"name": "tiny"})
    assert run_dir_for(None, config, URL) == f"{tmp_path}/runs/tiny"
    assert run_dir_for("mine", config, "http://localhost:8265") == f"{tmp_path}/mine"
    for run_dir in (None, "mine"):
        with pytest.raises(RunError, match=r"--run-dir \S+: relative to a folder of this machine"):
            run_dir_for(run_dir, config, "http://head:8265")


def test_run_dir_for__takes_a_uri_or_an_absolute_path_anywhere() -> None:
    for run_dir in ("s3://bucket/run", "/shared/run"):
        assert run_dir_for(run_dir, Config(), "http://head:8265") == run_dir


def test_run_dir_for__refuses_a_secret_without_showing_it() -> None:
    with pytest.raises(RunError, match="has a secret in it") as refused:
        run_dir_for("s3://key:hushhush@bucket/run", Config(), URL)
    assert "hushhush" not in str(refused.value)


@pytest.mark.parametrize("address", ["head:8265", "127.0.0.1:6379", "ray://head:10001", "http://", "auto"])
def test_check_address__wants_a_dashboards_url(address: str) -> None:
    with pytest.raises(RunError, match="not a dashboard's URL"):
        check_address(address)


def test_check_address__refuses_a_password_without_showing_it() -> None:
    with pytest.raises(RunError, match="has a password in it") as refused:
        check_address("http://me:hushhush@head:8265")
    assert "hushhush" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("data", {"source": "parquet", "path": "pool"}, r"data\.path = pool: relative .* s3://bucket/images"),
        ("data", {"source": "parquet", "path": "/p", "test_path": "t"}, r"data\.test_path = t: relative"),
        (
            "model",
            {"weights": "w.safetensors"},
            r"model\.weights = w\.safetensors: relative .* absolute path$",
        ),
        ("query", {"strategy": "best"}, r"query\.strategy = best: unknown"),
        ("training", {"workers": 1, "min_workers": 2}, r"training\.min_workers = 2: more than"),
    ],
)
def test_submit__finds_what_is_wrong_before_it_uploads(
    section: str, fields: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JobClient", lambda _: Jobs([]))
    config = Config.from_mapping({section: fields})
    with pytest.raises(ConfigError, match=words):
        submit(submission(config=config), wait=True, emit=print, say=print)


@pytest.mark.parametrize("submission_id", ["", "-x", "a b", "a/b", "a;b"])
def test_submit__refuses_an_id_that_is_no_name(submission_id: str) -> None:
    with pytest.raises(RunError, match="--submission-id"):
        submit(submission(submission_id=submission_id), wait=True, emit=print, say=print)


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that is no Ray dashboard."""

    status, body = 404, b"no such page"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def web_server() -> Iterator[Callable[[int, bytes], str]]:
    servers = []

    def serve(status: int, body: bytes) -> str:
        handler = type("Handler", (Stranger,), {"status": status, "body": body})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"no such page", "what answers is no Ray dashboard"),
        (200, b"<html>", "what answers is no Ray dashboard"),
        (200, b"{}", "what answers is no Ray dashboard"),
        (503, b"later", "nobody answers (HTTP 503)"),
        (200, b'{"ray_version": "2.40.0"}', "the cluster runs Ray 2.40.0"),
        (401, b"Unauthorized: Missing authentication token", "the cluster wants a token; set RAY_AUTH_MODE"),
        (403, b"Forbidden: Invalid authentication token", "the token is refused; set RAY_AUTH_TOKEN"),
    ],
)
def test_submit__tells_in_one_line_what_answers(
    web_server: Callable[[int, bytes], str],
    tmp_path: Path,
    status: int,
    body: bytes,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    address = web_server(status, body)
    with pytest.raises(RunError) as refused:
        submit(submission(address=address, working_dir=tmp_path), wait=True, emit=print, say=print)
    line = str(refused.value)
    assert words in line
    assert line.startswith(f"--address {address}: ")
    assert "\n" not in line

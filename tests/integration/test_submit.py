"""`dm2at submit` against a real head under a token: ends, attempts, broken streams, the token's secrecy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dm2at_ray.store import RunDirectory

from .commands import Command, wait_for, write_config
from .job_cluster import BreakingProxy, JobCluster, job_cluster
from .processes import marked

SECONDS = 300
REPOSITORY = Path(__file__).parents[2]

NET = """
import dm2at_ray
from torch import nn


def net(num_classes, in_channels, image_size):
    print("code of", dm2at_ray.__file__, "and", __file__, flush=True)
    size = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    with job_cluster() as running:
        yield running


@dataclass
class Desk:
    """Where the tests of this module submit from; all that their commands have said is kept."""

    folder: Path
    cluster: JobCluster
    commands: list[Command] = field(default_factory=list)

    def submit(
        self, *arguments: object, address: str | None = None, variables: dict[str, str] | None = None
    ) -> Command:
        """`dm2at submit`, run in a folder with nothing but what a user would have there."""
        command = Command(
            *("submit", *arguments, "--address", address or self.cluster.url),
            folder=self.folder / "mine",
            variables=self.cluster.variables if variables is None else variables,
        )
        self.commands.append(command)
        return command

    def driver(self, name: str, script: str) -> Path:
        """A driver that does as a shell script says, for `--python`."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}")
        path.chmod(0o755)
        return path


@pytest.fixture(scope="module")
def desk(cluster: JobCluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("submit")
    (folder / "mine").mkdir()
    (folder / "mine" / "nets.py").write_text(NET)
    # What the commands themselves say is kept there too.
    (folder / "mine" / ".rayignore").write_text("std*-*\n")
    return Desk(folder, cluster)


@dataclass(frozen=True)
class Played:
    """A run that was stopped after round 0 and submitted again, over connections that kept breaking."""

    run_dir: Path
    job: str
    stopped: Command
    resumed: Command
    attached: Command
    broken: int
    jobs: dict[str, str]
    round_0: dict[str, int]
    """Files of round 0 and when they were written, before the second attempt."""
    command_lines: str
    """Of all processes of the cluster, while the run was at work."""


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def played(desk: Desk, cluster: JobCluster) -> Iterator[Played]:
    config = write_config(desk.folder / "tiny.yaml", model={"name": "nets:net"}, data={"source": "digits"})
    run_dir = desk.folder / "run"
    arguments = (config, "--run-dir", run_dir)
    run = RunDirectory(str(run_dir))
    with desk.submit(*arguments) as stopped:

        def committed() -> bool:
            return stopped.process.poll() is not None or bool(run.committed_rounds())

        wait_for("round 0", committed, SECONDS)
        assert stopped.process.poll() is None, stopped.stdout + stopped.stderr
        (job,) = cluster.jobs("dm2at-tiny-")
        cluster.stop(job)
        stopped.end(SECONDS)
    round_0 = times(run_dir / "rounds" / "0000")
    with (
        BreakingProxy(cluster.port) as proxy,
        desk.submit(*arguments, address=proxy.url) as resumed,
    ):
        is_over = threading.Event()

        def disturb() -> None:
            wait_for("the job", lambda: is_over.is_set() or "run directory: " in resumed.stdout, SECONDS)
            proxy.is_down = True
            while not is_over.wait(3.0):
                proxy.break_all()
                proxy.is_down = False

        threading.Thread(target=disturb, daemon=True).start()
        wait_for("the second attempt", lambda: len(cluster.jobs(job)) == 2, SECONDS)
        with desk.submit(*arguments) as attached:
            wait_for("round 1", lambda: "round 1/1" in attached.stdout or attached.process.poll(), SECONDS)
            lines = [Path(f"/proc/{each}/cmdline").read_bytes() for each in marked(cluster.mark)]
            attached.end(SECONDS)
        resumed.end(SECONDS)
        is_over.set()
        yield Played(
            run_dir,
            job,
            stopped,
            resumed,
            attached,
            proxy.broken,
            cluster.jobs(job),
            round_0,
            b"\n".join(lines).decode(errors="replace"),
        )


@pytest.mark.ray
def test_submit__a_stopped_job_is_no_success(played: Played) -> None:
    assert played.stopped.end(0) == 143
    assert played.stopped.stderr.endswith(
        f"job {played.job}: stopped; the same command goes on from what is committed\n"
    )


@pytest.mark.ray
def test_submit__again_is_a_new_attempt_that_resumes_the_run(played: Played) -> None:
    assert played.jobs == {played.job: "STOPPED", f"{played.job}-2": "SUCCEEDED"}
    assert times(played.run_dir / "rounds" / "0000") == played.round_0
    rounds = RunDirectory(str(played.run_dir)).committed_rounds()
    assert [each.metrics()["labeled"] for each in rounds] == [40, 60]


@pytest.mark.ray
def test_submit__while_it_runs_attaches_to_it(played: Played) -> None:
    assert played.attached.end(0) == 0
    assert f"job {played.job}-2: runs already, attached to it\n" in played.attached.stderr


@pytest.mark.ray
def test_submit__prints_the_log_once_over_broken_streams(played: Played, cluster: JobCluster) -> None:
    log = cluster.log(f"{played.job}-2")
    assert log.count("round 1/1  train") == 1
    assert "done: all 1 query rounds are done\n" in log
    assert played.broken >= 3
    assert played.resumed.stdout == log
    assert played.attached.stdout == log


@pytest.mark.ray
def test_submit__over_broken_connections_still_knows_the_end(played: Played) -> None:
    assert played.resumed.end(0) == 0
    last = played.resumed.stderr.splitlines()[-1]
    assert last == f"job {played.job}-2: done: all 1 query rounds are done"
    assert "Traceback" not in played.resumed.stderr


@pytest.mark.ray
def test_submit__sends_the_users_module_and_the_code_of_this_package(
    played: Played, cluster: JobCluster
) -> None:
    package = str(cluster.folder / "ray")
    lines = [line for line in played.resumed.stdout.splitlines() if line.startswith("code of ")]
    assert lines
    for line in lines:
        _, _, code, _, module = line.split(" ")
        assert code.startswith(package)
        assert code.endswith("/dm2at_ray/__init__.py")
        assert module == code.replace("dm2at_ray/__init__.py", "nets.py")


@pytest.mark.ray
def test_submit__a_driver_that_refuses_ends_with_its_own_code(played: Played, desk: Desk) -> None:
    """Code 2 of `dm2at run` itself: the run was begun under another config."""
    arguments = (desk.folder / "tiny.yaml", "--run-dir", played.run_dir, "--set", "query.size=7")
    with desk.submit(*arguments) as command:
        assert command.end(SECONDS) == 2
    assert "begun under another config (query.size was 20, now 7)" in command.stdout
    assert command.stderr.splitlines()[-1].endswith(": failed with exit code 2")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 7", 7, "failed with exit code 7"),
        ("kill -9 $$", 137, "failed with exit code 137"),
        ("echo 'awaiting_labels: 20 queries of round 1'", 0, "awaiting_labels: 20 queries of round 1"),
    ],
)
def test_submit__ends_as_the_driver_did(script: str, code: int, words: str, desk: Desk) -> None:
    config, name = write_config(desk.folder / "any.yaml"), f"ends-{code}"
    driver = desk.driver(name, script)
    arguments = (config, "--run-dir", desk.folder / name, "--submission-id", name, "--python", driver)
    with desk.submit(*arguments) as command:
        assert command.end(SECONDS) == code, command.stderr
    assert command.stderr.splitlines()[-1] == f"job {name}: {words}"


@pytest.mark.ray
def test_ctrl_c__leaves_the_job_and_the_same_command_follows_it_again(
    desk: Desk, cluster: JobCluster
) -> None:
    """Begun with --no-wait."""
    config, release = write_config(desk.folder / "any.yaml"), desk.folder / "release"
    script = f"echo begun\nwhile [ ! -e {release} ]; do sleep 0.1; done\necho done: now\n"
    driver = desk.driver("patient", script)
    arguments = (config, "--run-dir", desk.folder / "patient-run", "--submission-id", "patient")
    arguments = (*arguments, "--python", driver)
    with desk.submit(*arguments, "--no-wait") as begun:
        assert begun.end(SECONDS) == 0, begun.stderr
        assert begun.stdout == "patient\n"
    with desk.submit(*arguments) as left:
        wait_for("the log", lambda: "begun\n" in left.stdout or left.process.poll() is not None, SECONDS)
        left.process.send_signal(signal.SIGINT)
        assert left.end(SECONDS) == 128 + signal.SIGINT
        assert f"`ray job stop --address {cluster.url} patient` stops it" in left.stderr
        assert left.stderr.splitlines()[-1].startswith("stopped; a job that was submitted goes on")
    assert cluster.jobs("patient") == {"patient": "RUNNING"}
    with desk.submit(*arguments) as again:
        wait_for("the log", lambda: "begun\n" in again.stdout or again.process.poll() is not None, SECONDS)
        release.touch()
        assert again.end(SECONDS) == 0, again.stderr
    assert again.stdout == cluster.log("patient")
    assert again.stderr.splitlines()[-1] == "job patient: done: now"
    assert cluster.jobs("patient") == {"patient": "SUCCEEDED"}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "not-the-token" * 4},
            "the token is refused; set",
        ),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster wants a token; set RAY_AUTH_MODE=token"),
    ],
)
def test_submit__without_the_right_token_is_one_line(
    variables: dict[str, str], words: str, desk: Desk, cluster: JobCluster
) -> None:
    before = cluster.jobs("")
    with desk.submit(write_config(desk.folder / "any.yaml"), variables=variables) as command:
        assert command.end(SECONDS) == 2
    assert command.stderr.startswith(f"--address {cluster.url}: {words}")
    assert command.stderr.count("\n") == 1
    assert command.stdout == ""
    assert cluster.jobs("") == before


@pytest.mark.ray
def test_submit__where_nobody_listens_is_one_line(desk: Desk) -> None:
    with BreakingProxy(1) as proxy:
        proxy.is_down = True
        with desk.submit(write_config(desk.folder / "any.yaml"), address=proxy.url) as command:
            assert command.end(SECONDS) == 2
        assert command.stderr.startswith(f"--address {proxy.url}: nobody answers (")
    assert command.stderr.count("\n") == 1


@pytest.mark.ray
def test_ray_job_submit__works_from_a_clean_checkout(desk: Desk, cluster: JobCluster, tmp_path: Path) -> None:
    """As the help says, without `dm2at` on the nodes' PATH."""
    checkout, run_dir = tmp_path / "checkout", desk.folder / "from-checkout"
    for name in ("dm2at_ray", "configs"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / ".gitignore", checkout)
    shutil.copy(REPOSITORY / "pyproject.toml", checkout)
    settings = ["training.workers=1", "training.epochs=1", "training.min_steps=0", "stop.rounds=0"]
    settings += ["evaluation.max_images=64", "evaluation.pgd_steps=2", "monitoring.port=0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.url),
            *("--working-dir", ".", "--", "python", "-m", "dm2at_ray", "run", "configs/quickstart.yaml"),
            *("--run-dir", str(run_dir), *(word for each in settings for word in ("--set", each))),
        ],
        cwd=checkout,
        env=environment | cluster.variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done: all 0 query rounds are done" in done.stdout
    assert len(RunDirectory(str(run_dir)).committed_rounds()) == 1


def files_with(words: str, *folders: Path) -> list[Path]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [path for path in files if words.encode() in path.read_bytes()]


@pytest.mark.ray
def test_token__is_in_no_log_job_info_config_or_run_directory(
    played: Played, desk: Desk, cluster: JobCluster, tmp_path: Path
) -> None:
    assert files_with(cluster.token, desk.folder, cluster.folder) == []
    infos = json.dumps(cluster.ask("/api/jobs/"))
    assert cluster.token not in infos
    assert cluster.token not in played.command_lines
    assert cluster.token not in "".join(each.stdout + each.stderr for each in desk.commands)
    # Each of these was looked into: what must be there is found.
    assert played.job in infos
    assert f"--run-dir {played.run_dir}" in played.command_lines.replace("\0", " ")
    found = {path.name for path in files_with(played.job, desk.folder, cluster.folder)}
    assert {f"job-driver-{played.job}.log", f"supervisor-{played.job}.log"} <= found
    (tmp_path / "planted").write_text(f"Bearer {cluster.token}")
    assert files_with(cluster.token, tmp_path) == [tmp_path / "planted"]

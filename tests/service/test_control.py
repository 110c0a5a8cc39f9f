"""What is wanted of runs, and the jobs that it comes to; a recording job API stands in for Ray's."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from dm2at_ray.client.schemas import Round, RunRequest
from dm2at_ray.config import Config
from dm2at_ray.service import jobs as jobs_module
from dm2at_ray.service import steps as module
from dm2at_ray.service.control import Control
from dm2at_ray.service.intent import intent_of
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.runs import Runs
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.store import Lease, RunDirectory

from .job_api import JobApi

PEOPLE = "query: {oracle: files, initial: 40, size: 20}\ncompute: {actors: 1}\n"


class Desks:
    """Desks that say of every run what the test has them say."""

    def __init__(self) -> None:
        self.round: Round | None = None
        self.looks = 0

    @contextlib.contextmanager
    def at(self, run: RunDirectory) -> Iterator[Desks]:
        yield self

    def awaiting(self) -> Round | None:
        self.looks += 1
        return self.round

    def has(self, answered: int, *, round_index: int = 0, accepted: bool = False) -> None:
        """Of 40 queries so many are answered."""
        self.round = Round(
            round=round_index,
            asked=40,
            answered=answered,
            skipped=0,
            leased=0,
            needed=40,
            accepted=accepted,
            open=True,
        )


class World:
    """A service on a folder, and the cluster beside it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.api = JobApi()
        self.desks = Desks()
        self.settings: dict[str, Any] = {"address": "http://127.0.0.1:8265"} | settings
        self.serve()

    def serve(self) -> Control:
        """A server, such as one that takes over from the last."""
        self.jobs = self.api.service()
        self.runs = Runs(str(self.folder), self.jobs)
        settings = ServiceSettings(str(self.folder), **self.settings)
        self.control = Control(self.runs, self.desks, settings)
        return self.control

    def start(self, name: str = "mine", config: str = PEOPLE, **fields: Any) -> bool:
        return self.control.start(RunRequest(name=name, config=config, **fields), "ann")

    def job(self, status: str, message: str | None = None, job: str | None = None) -> None:
        """Have the cluster say this of the run's last job from now on."""
        job = job or self.api.submitted[-1]
        self.api.set(job, status, message)
        self.jobs.forget(job)

    def says(self, phase: str, **facts: Any) -> None:
        """Have the driver say so."""
        RunDirectory(str(self.folder / "mine")).write_status(
            {
                "phase": phase,
                "round": 0,
                "stage": "",
                "labeled": 0,
                "pool": 1437,
                "time": time.time(),
                **facts,
            }
        )

    def awaits(self, **facts: Any) -> None:
        """Have the driver end since a round awaits labels."""
        self.says("awaiting_labels", reason="labels", **facts)
        self.job("SUCCEEDED")

    @property
    def intent(self) -> dict[str, Any]:
        return json.loads((self.folder / "mine" / "service.json").read_text())

    @property
    def state(self) -> str:
        return self.runs.status("mine", None).state

    @property
    def reason(self) -> str:
        return self.runs.status("mine", None).reason


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # What the cluster said a moment ago is no news to a test.
    monkeypatch.setattr(jobs_module, "KEPT_SECONDS", 0.0)
    monkeypatch.setattr(jobs_module, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(jobs_module, "FORGOTTEN_SECONDS", 0.0)
    return World(tmp_path / "runs")


def problem_of(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ProblemError) as refused:
        call()
    return refused.value.kind, str(refused.value)


def test_start__submits_one_job_with_the_config(world: World) -> None:
    assert world.start()
    (job,) = world.api.submitted
    details = world.api.jobs[job]
    run_dir = str(world.folder / "mine")
    assert details.entrypoint == f"python -m dm2at_ray run .dm2at/config.yaml --run-dir {run_dir}"
    assert details.metadata is not None
    assert details.metadata["dm2at_run_dir"] == run_dir
    sent = Config.from_mapping(yaml.safe_load(world.api.configs[job]))
    assert sent == Config.from_mapping({**yaml.safe_load(PEOPLE), "name": "mine"})
    assert (world.intent["wanted"], world.intent["job"], world.intent["by"]) == ("running", job, "ann")
    assert world.state == "pending"


def test_start__again_attaches(world: World) -> None:
    world.start()
    assert not world.start()
    assert not world.start(config="name: other\n" + PEOPLE), "its name is the run's"
    world.job("RUNNING")
    world.says("training", stage="train")
    assert not world.start()
    assert len(world.api.submitted) == 1
    assert world.state == "running"


def test_start__of_another_config_is_refused(world: World) -> None:
    world.start()
    kind, words = problem_of(lambda: world.start(config="query: {oracle: files, size: 21}\n"))
    assert kind == "other-config"
    assert "query.initial, query.size" in words
    assert len(world.api.submitted) == 1
    assert yaml.safe_load(world.intent["config"])["query"]["size"] == 20


def test_start__again_takes_over_what_a_run_may_go_on_under(world: World) -> None:
    world.start()
    assert not world.start(config=PEOPLE.replace("actors: 1", "actors: 3"), advance=False)
    assert yaml.safe_load(world.intent["config"])["compute"]["actors"] == 3
    assert not world.runs.status("mine", None).advance
    assert len(world.api.submitted) == 1


def test_start__at_the_same_time_submits_once(world: World) -> None:
    world.api.slowness = 0.2
    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda _: world.start(), range(8)))
    assert sorted(created) == [False] * 7 + [True]
    assert len(world.api.submitted) == 1


def test_start__by_two_servers_at_the_same_time_is_one_job(world: World) -> None:
    """Neither sees the other's job when it looks; Ray takes an id once."""
    world.api.slowness = 0.2
    controls = [world.serve(), world.serve()]
    request = RunRequest(name="mine", config=PEOPLE)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda control: control.start(request, "ann"), controls))
    assert len(world.api.submitted) == 1
    assert world.intent["job"] == world.api.submitted[0]


def test_start__without_a_cluster(tmp_path: Path) -> None:
    settings = ServiceSettings(str(tmp_path))
    control = Control(Runs(str(tmp_path)), Desks(), settings)
    request = RunRequest(name="mine", config=PEOPLE)
    assert problem_of(lambda: control.start(request, "ann"))[0] == "no-cluster"
    assert list(tmp_path.iterdir()) == []


def test_start__of_a_cluster_that_does_not_answer_is_finished_later(world: World) -> None:
    world.api.is_down = True
    assert world.start()
    assert world.state == "submitted"
    assert "connection refused" in world.reason
    assert world.control.carry_on("mine") is not None, "it is tried again"
    assert world.api.submitted == []
    world.api.is_down = False
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1
    assert (world.state, world.reason) == ("pending", "")


def test_start__of_a_server_that_died_is_finished_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(jobs_module, "start_attempt", die)
        with pytest.raises(Killed):
            world.start()
    assert world.intent["job"] is None
    assert world.api.submitted == []
    assert Runs(str(world.folder), world.jobs).status("mine", None).state == "submitted"
    swept(world.serve())
    assert len(world.api.submitted) == 1
    assert world.state == "pending"


def test_start__of_a_server_that_died_after_it_had_submitted_is_not_submitted_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    write = module.write_intent

    def die_then(files: Any, intent: Any) -> None:
        if intent.job is not None:
            raise Killed
        write(files, intent)

    with monkeypatch.context() as dying:
        dying.setattr(module, "write_intent", die_then)
        with pytest.raises(Killed):
            world.start()
    (job,) = world.api.submitted
    assert world.intent["job"] is None
    swept(world.serve())
    assert world.api.submitted == [job]
    assert world.intent["job"] == job


@pytest.mark.parametrize("what", ["file", "folder"])
def test_start__leaves_alone_what_is_no_run(world: World, what: str) -> None:
    world.folder.mkdir()
    place = world.folder / "mine"
    if what == "file":
        place.write_text("notes")
    else:
        place.mkdir()
        (place / "notes").write_text("notes")
    assert problem_of(world.start)[0] == "other-config"
    assert world.api.submitted == []
    assert not (place / "service.json").exists()


def test_start__writes_through_no_link_that_leads_out(world: World, tmp_path: Path) -> None:
    world.folder.mkdir()
    (world.folder / "mine").symlink_to(tmp_path / "elsewhere")
    assert problem_of(world.start)[0] == "outside-roots"
    assert not (tmp_path / "elsewhere").exists()


def test_start__takes_over_a_run_that_was_begun_by_hand(world: World) -> None:
    directory = RunDirectory(str(world.folder / "mine"))
    by_hand = Config.from_mapping({**yaml.safe_load(PEOPLE), "name": "by.hand"})
    directory.write_config(by_hand)
    world.says("interrupted")
    assert world.state == "interrupted"
    assert not world.start()
    (job,) = world.api.submitted
    assert yaml.safe_load(world.api.configs[job])["name"] == "by.hand", "else its driver would be refused"


def test_start__takes_over_a_run_that_awaits_labels(world: World) -> None:
    directory = RunDirectory(str(world.folder / "mine"))
    directory.write_config(Config.from_mapping({**yaml.safe_load(PEOPLE), "name": "mine"}))
    world.says("awaiting_labels")
    world.desks.has(39)
    assert not world.start()
    assert world.api.submitted == []
    world.desks.has(40)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1


def test_start__disturbs_no_driver_that_was_started_by_hand(world: World) -> None:
    directory = RunDirectory(str(world.folder / "mine"))
    directory.write_config(Config.from_mapping({**yaml.safe_load(PEOPLE), "name": "mine"}))
    world.says("training", stage="train")
    Lease(directory.files, "somebody").acquire()
    assert not world.start()
    assert world.api.submitted == []
    assert world.state == "running"
    # Later on it ends, and its round gets its labels.
    Lease(directory.files, "somebody").release()
    world.says("awaiting_labels")
    world.desks.has(40)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1


def test_start__attaches_to_a_job_of_dm2at_submit(world: World) -> None:
    world.api.set("dm2at-mine-by-hand", "RUNNING", run_dir=str(world.folder / "mine"))
    world.start()
    assert world.api.submitted == []
    assert world.intent["job"] == "dm2at-mine-by-hand"


def test_labels__the_last_one_starts_the_next_attempt(world: World) -> None:
    world.start()
    world.awaits()
    assert world.state == "awaiting_labels"
    world.desks.has(39)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1
    world.desks.has(40)
    world.control.carry_on("mine")
    first, second = world.api.submitted
    assert second == f"{first}-2"
    assert world.state == "pending"
    world.job("RUNNING")
    assert world.state == "running", "what the driver before it has left counts no more"
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 2


def test_labels__accepted_as_they_are_suffice(world: World) -> None:
    world.start()
    world.awaits()
    world.desks.has(3, accepted=True)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 2


@pytest.mark.parametrize("hindrance", ["no advance", "paused", "stopped", "driver has not ended"])
def test_labels__start_nothing(world: World, hindrance: str) -> None:
    world.start(advance=hindrance != "no advance")
    world.awaits()
    if hindrance == "paused":
        world.control.pause("mine", "ann")
    elif hindrance == "stopped":
        world.control.stop("mine", "ann")
    elif hindrance == "driver has not ended":
        world.job("RUNNING")
    world.desks.has(40)
    again = world.control.carry_on("mine")
    assert len(world.api.submitted) == 1
    assert (again is not None) == (hindrance == "driver has not ended"), "it is looked at again"


def test_labels__that_came_while_the_driver_was_about_to_end_are_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    world.start()
    world.job("RUNNING")
    world.says("selecting", stage="export")
    world.desks.has(40)
    with sweeping(world.control):
        world.control.labels_changed("mine")
        time.sleep(0.5)
        assert len(world.api.submitted) == 1
        world.awaits()
        wait_until(lambda: len(world.api.submitted) == 2)


def test_labels__fifty_words_at_once_submit_once(world: World) -> None:
    world.start()
    world.awaits()
    world.desks.has(40)
    world.api.slowness = 0.1
    with sweeping(world.control), ThreadPoolExecutor(50) as threads:
        began = time.monotonic()
        list(threads.map(world.control.labels_changed, ["mine"] * 50))
        assert time.monotonic() - began < 2, "nobody waits for the cluster"
        # Whoever looks by hand at the same time changes nothing.
        list(threads.map(world.control.carry_on, ["mine"] * 50))
        wait_until(lambda: len(world.api.submitted) == 2)
    assert len(world.api.submitted) == 2


def test_labels__that_a_driver_does_not_take_start_no_endless_chain(world: World) -> None:
    """Were the service and the driver ever of two minds, a job a minute would follow."""
    world.start()
    world.awaits()
    world.desks.has(40)
    world.control.carry_on("mine")
    world.awaits()
    for _ in range(3):
        world.control.carry_on("mine")
    assert len(world.api.submitted) == 2
    world.desks.has(41)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 3, "a further label is news"


def test_pause__ends_the_job_and_resume_goes_on(world: World) -> None:
    world.start()
    world.job("RUNNING")
    world.says("training", stage="train")
    world.control.pause("mine", "bob")
    assert world.api.stopped == world.api.submitted
    assert (world.state, world.intent["by"]) == ("paused", "bob")
    world.says("interrupted")
    world.job("STOPPED")
    world.control.carry_on("mine")
    assert (len(world.api.submitted), world.state) == (1, "paused")
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 2
    assert world.state == "pending"


def test_pause__of_a_job_that_does_not_hear_is_repeated(world: World) -> None:
    """Ray tells a job that has not begun nothing."""
    world.start()
    world.control.pause("mine", "ann")
    world.job("RUNNING")
    assert world.control.carry_on("mine") is not None
    assert len(world.api.stopped) == 2
    world.job("STOPPED")
    assert world.control.carry_on("mine") is None
    assert len(world.api.stopped) == 2
    assert len(world.api.submitted) == 1


def test_pause__of_a_cluster_that_does_not_answer_is_done_later(world: World) -> None:
    world.start()
    world.job("RUNNING")
    world.api.is_down = True
    assert problem_of(lambda: world.control.pause("mine", "ann"))[0] == "unreachable"
    assert world.state == "paused"
    assert world.control.carry_on("mine") is not None, "it is tried again"
    world.api.is_down = False
    swept(world.serve())
    assert world.api.stopped == world.api.submitted


def test_pause__then_resume_before_the_job_has_ended_waits_for_its_end(world: World) -> None:
    world.start()
    world.job("RUNNING")
    world.says("training", stage="train")
    world.control.pause("mine", "ann")
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 1, "two drivers would be one too many"
    assert world.state == "submitted"
    assert world.control.carry_on("mine") is not None
    world.says("interrupted")
    world.job("STOPPED")
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 2
    assert world.state == "pending"


def test_pause__that_never_reached_the_job_is_taken_back_by_resume(world: World) -> None:
    world.start()
    world.job("RUNNING")
    world.says("training", stage="train")
    world.api.is_down = True
    problem_of(lambda: world.control.pause("mine", "ann"))
    world.api.is_down = False
    world.control.resume("mine", "ann")
    assert (world.state, world.api.stopped, len(world.api.submitted)) == ("running", [], 1)


def test_pause__while_labels_are_awaited_then_resume_starts_nothing_without_them(world: World) -> None:
    world.start()
    world.awaits()
    world.desks.has(3)
    world.control.pause("mine", "ann")
    assert (world.state, world.api.stopped) == ("paused", [])
    world.control.resume("mine", "ann")
    assert (world.state, len(world.api.submitted)) == ("awaiting_labels", 1)
    world.control.pause("mine", "ann")
    world.desks.has(40)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 2


def test_resume__starts_the_next_step_of_a_run_that_does_not_advance_by_itself(world: World) -> None:
    world.start(advance=False)
    world.awaits()
    world.desks.has(40)
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 2


def test_resume__twice_is_one_job(world: World) -> None:
    world.start()
    world.says("failed", reason="the disk is full")
    world.job("FAILED")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: world.control.resume("mine", "ann"), range(4)))
    assert len(world.api.submitted) == 2


@pytest.mark.parametrize(
    ("phase", "status", "state"),
    [
        ("failed", "FAILED", "failed"),
        ("interrupted", "STOPPED", "interrupted"),
        ("training", "FAILED", "interrupted"),
    ],
)
def test_resume__goes_on_after_an_end_that_nobody_wanted(
    world: World, phase: str, status: str, state: str
) -> None:
    world.start()
    world.says(phase, reason="so")
    world.job(status)
    assert world.state == state
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 1, "not by itself: it might fail for ever"
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 2


def test_resume__of_a_run_at_work_changes_nothing(world: World) -> None:
    world.start()
    world.job("RUNNING")
    world.says("training", stage="train")
    before = world.intent
    world.control.resume("mine", "bob")
    assert world.intent == before
    assert len(world.api.submitted) == 1


def test_resume__of_a_cluster_that_does_not_answer_is_done_later(world: World) -> None:
    world.start()
    world.says("failed", reason="so")
    world.job("FAILED")
    world.api.is_down = True
    world.control.resume("mine", "ann")
    assert world.state == "submitted"
    world.api.is_down = False
    swept(world.serve())
    assert len(world.api.submitted) == 2


def test_resume__of_a_run_made_by_hand_is_held_against_the_roots(world: World, tmp_path: Path) -> None:
    directory = RunDirectory(str(world.folder / "mine"))
    data = {"source": "image_folder", "path": str(tmp_path / "secret")}
    directory.write_config(Config.from_mapping({"name": "mine", "data": data}))
    world.says("interrupted")
    assert problem_of(lambda: world.control.resume("mine", "ann"))[0] == "outside-roots"
    assert world.api.submitted == []
    assert not (world.folder / "mine" / "service.json").exists()


def test_jobs_that_the_cluster_has_lost_are_followed_by_another(world: World) -> None:
    world.start()
    world.says("training", stage="train")
    world.api.jobs.clear()
    world.control.carry_on("mine")
    assert len(world.api.submitted) == 2


def test_jobs_that_a_new_dashboard_does_not_know_yet_are_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "FORGOTTEN_SECONDS", 60.0)
    world.start()
    world.says("training", stage="train")
    kept = dict(world.api.jobs)
    world.api.jobs.clear()
    world.control.carry_on("mine")
    world.api.jobs.update(kept)
    assert len(world.api.submitted) == 1


@pytest.mark.parametrize("call", ["pause", "stop", "resume"])
def test_done__is_done(world: World, call: str) -> None:
    world.start()
    world.says("done", reason="all rounds")
    world.job("SUCCEEDED")
    kind, words = problem_of(lambda: getattr(world.control, call)("mine", "ann"))
    assert (kind, words) == ("wrong-state", "run 'mine' is done: all rounds")
    assert world.state == "done"


@pytest.mark.parametrize("call", ["pause", "stop", "resume", "carry_on"])
def test_unknown_runs(world: World, call: str) -> None:
    arguments = ["none"] if call == "carry_on" else ["none", "ann"]
    assert problem_of(lambda: getattr(world.control, call)(*arguments))[0] == "unknown-run"
    assert not world.folder.exists()


def test_stop__is_not_undone_by_pause(world: World) -> None:
    world.start()
    world.control.stop("mine", "ann")
    assert world.state == "stopped"
    assert problem_of(lambda: world.control.pause("mine", "ann"))[0] == "wrong-state"
    world.job("STOPPED")
    world.control.resume("mine", "ann")
    assert len(world.api.submitted) == 2


def test_sweeps__look_at_every_run_and_outlive_a_broken_one(world: World) -> None:
    for name in ("a", "b", "c"):
        (world.folder / name).mkdir(parents=True)
        intent = {"wanted": "running", "advance": True, "by": "ann", "time": 1.0, "due": True}
        config = "query: [" if name == "b" else Config.from_mapping({"name": name}).to_yaml()
        (world.folder / name / "service.json").write_text(json.dumps({**intent, "config": config}))
    swept(world.control)
    assert [job.split("-")[1] for job in world.api.submitted] == ["a", "c"]


def test_intent__of_a_later_version_is_read(world: World) -> None:
    world.start()
    assert intent_of({**world.intent, "more": 1}, "service.json") is not None
    assert intent_of({"wanted": "dancing"}, "service.json") is None
    assert intent_of([1], "service.json") is None


@contextlib.contextmanager
def sweeping(control: Control) -> Iterator[None]:
    control.start_sweeping()
    try:
        yield
    finally:
        control.close()


def swept(control: Control) -> None:
    """One sweep over all runs."""
    ended = threading.Event()
    names = control._reconciler._names

    def all_names() -> Iterator[str]:
        yield from names()
        ended.set()

    control._reconciler._names = all_names
    with sweeping(control):
        assert ended.wait(20)


def wait_until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""Starting, pausing and resuming runs: what is wanted is written down first, then brought about."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pyarrow import fs

from dm2at_ray.client.schemas import RunRequest
from dm2at_ray.config import Config, differing_fields
from dm2at_ray.errors import UserError
from dm2at_ray.service.checks import ConfigChecks
from dm2at_ray.service.intent import Intent, Wanted
from dm2at_ray.service.locks import RunLocks
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.reconciler import Reconciler
from dm2at_ray.service.runs import Runs
from dm2at_ray.service.settings import ServiceSettings
from dm2at_ray.service.standing import Facts
from dm2at_ray.service.steps import OpenDesks, Steps, parsed
from dm2at_ray.store import RunDirectory

LABELS_SECONDS = 0.2
"""Labels that come in such a time are looked at together."""
PAGE_NAMES = 200


class Control:
    """Has runs play, rest and end on the Ray cluster; safe to use from any thread.

    A thread finishes what this server or another one has begun and not finished, from `start_sweeping` on.

    Args:
        runs: The runs, which know the cluster's jobs.
        desks: Where their labels are looked up.
        settings: Of the service.
        now: The clock, in seconds since the epoch.
    """

    def __init__(
        self, runs: Runs, desks: OpenDesks, settings: ServiceSettings, now: Callable[[], float] = time.time
    ) -> None:
        assert (runs.jobs is None) == (settings.address is None), "Runs needs the Jobs of the address"
        self._runs = runs
        self._checks = ConfigChecks(settings.data_roots, settings.models, settings.metrics_hosts)
        self._now = now
        self._locks = RunLocks()
        self._reconciler = Reconciler(self.carry_on, self._names, settings.sweep_seconds)
        self._steps = Steps(runs, desks, self._checks, settings.python, self._reconciler.soon)

    def start_sweeping(self) -> None:
        """Look over all runs now, and from time to time."""
        if self._runs.jobs is not None:
            self._reconciler.start()

    def close(self) -> None:
        """End the sweeps; jobs go on."""
        self._reconciler.close()

    def start(self, request: RunRequest, who: str) -> bool:
        """Start a run; whether it is new.

        Asked again with the same config, it changes nothing but what a run may go on under: whether it
        advances by itself, and where its work runs.

        Args:
            request: The run.
            who: Who asks for it.

        Raises:
            ProblemError: `no-cluster`, `bad-config`, `outside-roots`, or `other-config`.
        """
        self._steps.cluster()
        config = self._checks.read(request.config, request.name)
        with self._alone(request.name):
            directory = self._runs.folder.place(request.name)
            facts = self._steps.fresh(request.name)
            before = self._config_there(directory, facts)
            if before is None and _is_taken(directory):
                raise ProblemError(
                    "other-config",
                    f"run {request.name!r}: something that is no run has this name; take another",
                )
            if before is not None:
                # That of a run that was started otherwise need not be that of its folder.
                config = config.model_copy(update={"name": before.name})
                _check_same(request.name, before, config)
            intent = facts.intent
            if intent is None:
                intent = Intent(
                    "running",
                    request.advance,
                    config.to_yaml(),
                    who,
                    self._now(),
                    due=not facts.driver_lives and facts.word.phase != "awaiting_labels",
                )
                self._steps.write(directory, intent)
            elif (intent.advance, intent.config) != (request.advance, config.to_yaml()):
                intent = replace(intent, advance=request.advance, config=config.to_yaml(), by=who)
                self._steps.write(directory, intent)
            self._steps.bring_about(request.name)
        return before is None

    def pause(self, name: str, who: str) -> None:
        """End a run's job, for now: labels are taken, and nothing starts by itself until it is resumed.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`, or `unreachable`: it is ended once that answers.
        """
        self._rest(name, "paused", who)

    def stop(self, name: str, who: str) -> None:
        """End a run's job, and hand out none of its queries any more, until it is resumed.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`, or `unreachable`: it is ended once that answers.
        """
        self._rest(name, "stopped", who)

    def resume(self, name: str, who: str) -> None:
        """Have a run go on that was paused or stopped, failed or lost its driver; else nothing happens.

        A round with labels enough goes on too, also where the run does not advance by itself.

        Raises:
            ProblemError: `unknown-run`, `wrong-state`: it is done; `no-cluster`, `bad-config`, or
                `outside-roots`: its config names what this service may not open.
        """
        self._steps.cluster()
        with self._alone(name):
            directory = self._runs.directory(name)
            facts = self._steps.fresh(name)
            if facts.word.phase == "done":
                raise ProblemError("wrong-state", f"run {name!r} is done: {facts.word.reason}")
            config = self._config_there(directory, facts)
            assert config is not None
            self._checks.check(config)
            intent = facts.intent or Intent("paused", True, config.to_yaml(), who, self._now())
            if self._steps.is_to_go_on(name, facts, intent):
                intent = replace(intent, due=True)
            if intent != facts.intent or intent.wanted != "running":
                self._steps.write(directory, replace(intent, wanted="running", by=who, time=self._now()))
            self._steps.bring_about(name)

    def labels_changed(self, name: str) -> None:
        """Say that labels of a run have come: its next step starts if they suffice; returns at once."""
        self._reconciler.soon(name, LABELS_SECONDS)

    def carry_on(self, name: str) -> float | None:
        """Bring a run into line with what is wanted of it.

        Returns:
            After how many seconds it is worth looking again; None where nothing is about to change.

        Raises:
            ProblemError: `unknown-run`; or the storage does not answer.
        """
        with self._alone(name):
            self._runs.directory(name)
            return self._steps.bring_about(name)

    def _rest(self, name: str, wanted: Wanted, who: str) -> None:
        with self._alone(name):
            directory = self._runs.directory(name)
            facts = self._steps.fresh(name)
            if facts.word.phase == "done":
                raise ProblemError("wrong-state", f"run {name!r} is done: {facts.word.reason}")
            intent = facts.intent
            if intent is None:
                config = self._config_there(directory, facts)
                assert config is not None
                job = self._foreign_job(directory)
                if job is None and facts.driver_lives:
                    raise ProblemError(
                        "wrong-state", f"run {name!r}: its driver was started otherwise; end it where it was"
                    )
                intent = Intent(wanted, False, config.to_yaml(), who, self._now(), job=job)
            elif wanted == "paused" and intent.wanted == "stopped":
                raise ProblemError(
                    "wrong-state", f"run {name!r} is stopped; resume it before it can be paused"
                )
            self._steps.write(
                directory, replace(intent, wanted=wanted, due=False, by=who, time=self._now(), trouble="")
            )
            if intent.job is not None and not facts.has_last_word:
                self._steps.end_job(name, intent.job)

    def _foreign_job(self, directory: RunDirectory) -> str | None:
        """The job of a run that was started otherwise."""
        return self._runs.jobs.at_work(directory.uri) if self._runs.jobs is not None else None

    def _config_there(self, directory: RunDirectory, facts: Facts) -> Config | None:
        """The config that a run was begun with; None where there is no run."""
        try:
            if facts.intent is not None:
                return Config.from_mapping(parsed(facts.intent.config), directory.name)
            return directory.config() if directory.files.exists("config.yaml") else None
        except UserError as error:
            raise ProblemError("bad-config", str(error)) from None

    def _names(self) -> Iterator[str]:
        after: str | None = None
        while True:
            names, after = self._runs.page(after, PAGE_NAMES)
            yield from names
            if after is None:
                return

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else in this process changes the run meanwhile."""
        with self._locks.held(name), self._runs.folder.storage():
            yield


def _check_same(name: str, there: Config, wanted: Config) -> None:
    fields = differing_fields(there, wanted)
    if fields:
        raise ProblemError(
            "other-config",
            f"run {name!r}: there is one already, under another config ({', '.join(fields[:10])}); take "
            "another name, or set these back",
        )


def _is_taken(directory: RunDirectory) -> bool:
    """Whether something is there, be it a file."""
    info = directory.files.filesystem.get_file_info(directory.files.root)
    return info.type == fs.FileType.File or bool(directory.files.names())

"""Several trials at once, each worker a process of its own that takes the next as soon as it is free."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from dm2at_ray.bench.process import LAST_LINES, THREAD_VARIABLES
from dm2at_ray.bench.trial import Trial, TrialRow


def run_in_processes(
    trials: Iterable[Trial], *, jobs: int, threads: int, images: Path | None
) -> Generator[tuple[Trial, TrialRow]]:
    """Do trials, `jobs` at a time; no process is left behind when this ends, however it does.

    Args:
        trials: begun in this order, each when a process is free for it.
        jobs: processes.
        threads: CPU threads of each.
        images: as `load_split_images` takes it.

    Yields:
        Each trial with its row as it is done; with the last words of a process that died over it.
    """
    waiting = iter(trials)
    with ExitStack() as workers, selectors.DefaultSelector() as selector:

        def start_next(worker: _Worker | None = None) -> None:
            trial = next(waiting, None)
            if trial is None:
                return
            worker = worker or workers.enter_context(_worker(threads, images))
            worker.begin(trial)
            selector.register(worker.answers, selectors.EVENT_READ, worker)

        for _ in range(jobs):
            start_next()
        while selector.get_map():
            for key, _ in selector.select():
                worker: _Worker = key.data
                selector.unregister(worker.answers)
                trial, row = worker.end()
                start_next(worker if row else None)
                yield trial, row or worker.failed(trial)


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    answers: IO[bytes]
    questions: IO[bytes]
    stderr: IO[bytes]
    trial: Trial | None = None

    def begin(self, trial: Trial) -> None:
        self.trial = trial
        # One that has died is found out by the end of its answers.
        with suppress(BrokenPipeError):
            self.questions.write(json.dumps(asdict(trial)).encode() + b"\n")
            self.questions.flush()

    def end(self) -> tuple[Trial, TrialRow | None]:
        """Read the answer, which comes as one line; None of a process that died."""
        assert self.trial is not None
        line = self.answers.readline()
        return self.trial, TrialRow(**json.loads(line)) if line.endswith(b"\n") else None

    def failed(self, trial: Trial) -> TrialRow:
        code = self.process.wait()
        self.stderr.seek(0)
        said = " | ".join(self.stderr.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:])
        ending = f"signal {-code}" if code < 0 else f"code {code}"
        error = f"ended with {ending}: {said or 'nothing said'}"
        return TrialRow(recipe=trial.recipe, seed=trial.seed, error=error)


@contextmanager
def _worker(threads: int, images: Path | None) -> Iterator[_Worker]:
    command = [sys.executable, "-m", "dm2at_ray.bench.trial_worker", str(threads)]
    if images is not None:
        command.append(str(images))
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    # A file, not a pipe: whatever a library prints can neither fill it nor hold it open.
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _Worker(process, process.stdout, process.stdin, stderr)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()

"""A process that does one trial after the other: JSON lines in by stdin, JSON lines out by stdout.

`python -m dm2at_ray.bench.trial_worker THREADS [DIRECTORY]` takes the images of a directory, or those of the
system.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

import torch

from dm2at_ray.bench.images import load_split_images
from dm2at_ray.bench.trial import Trial, run_trial


def main(directory: Path | None, threads: int) -> None:
    """Answer each line of stdin with one on stdout, until stdin ends.

    Args:
        directory: of the images; None takes those of the system.
        threads: CPU threads.
    """
    # The command that started this one tells it when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    torch.set_num_threads(threads)
    images = load_split_images(directory)
    while True:
        row = run_trial(Trial(**json.loads(lines.get())), *images)
        print(json.dumps(dataclasses.asdict(row)), file=answers, flush=True)


def _read(lines: queue.SimpleQueue[str]) -> None:
    """Pass the lines on, and end the process after the last: also where its master was killed."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[2]) if len(sys.argv) > 2 else None, int(sys.argv[1]))

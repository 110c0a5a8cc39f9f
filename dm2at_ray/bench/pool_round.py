"""One selection round over a pool, in a process of its own, with all of Ray below it.

`python -m dm2at_ray.bench.pool_round DIRECTORY` does the job in DIRECTORY/job.json and leaves result.json
there. What it says on the way goes to stdout, a line for every finished stage.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dm2at_ray import Config, UserError, run
from dm2at_ray.bench.pool_images import SIZE

JOB, RESULT = "job.json", "result.json"

LISTING = "list pool"
FIRST_ROUND = "round 0"
SURROUNDINGS = "start and end"


@dataclass(frozen=True, kw_only=True)
class RoundJob:
    """What the process does.

    Attributes:
        images: folder that `make_pool` has filled.
        run_dir: where the run is kept.
        n: images of the pool.
        seed: of the run.
        cpus: CPUs of its Ray, and actors.
        object_store_bytes: size of its object store.
        block_rows: rows of a piece of work.
        queries: labels asked for in round 0, and again in round 1.
        steps: of each round's training.
    """

    images: str
    run_dir: str
    n: int
    seed: int
    cpus: int
    object_store_bytes: int
    block_rows: int
    queries: int
    steps: int


def config_of(job: RoundJob) -> Config:
    """Round 0 for a model to select with, then one whole round of DM2-AT by the routed engine."""
    images = Path(job.images)
    return Config.from_mapping(
        {
            "name": "bench-pool",
            "seed": job.seed,
            "data": {
                "source": "parquet",
                "path": str(images / "pool"),
                "test_path": str(images / "test"),
                "image_size": SIZE,
                "channels": 3,
            },
            "query": {"strategy": "dm2_at", "initial": job.queries, "size": job.queries},
            "neighbors": {"engine": "routed"},
            "training": {"steps": job.steps},
            "evaluation": {"pgd_steps": 5, "max_images": 500},
            "stop": {"rounds": 1},
            "compute": {
                "actors": job.cpus,
                "block_rows": job.block_rows,
                "cpus": job.cpus,
                "object_store_bytes": job.object_store_bytes,
            },
            "monitoring": {"enabled": False},
        }
    )


class StageTimes:
    """A view of the run that keeps what its stages took, and says so.

    Attributes:
        finished: (round, stage, seconds, images) in the order in which they ended.
    """

    def __init__(self) -> None:
        self.finished: list[tuple[int, str, float, int]] = []
        self._seen: set[tuple[str, int]] = set()
        # As long as Ray is joined, sys.stdout is another one.
        self._stream = sys.stdout

    def update(self, snapshot: Any) -> None:
        """Take in the stages that have ended since the last time."""
        for line in snapshot.finished:
            if (snapshot.driver, line.sequence) not in self._seen:
                self._seen.add((snapshot.driver, line.sequence))
                self.finished.append((line.round, line.stage, line.seconds, line.images))
                self.message(f"round {line.round}: {line.stage}, {line.images:,} in {line.seconds:,.1f} s")

    def message(self, text: str) -> None:
        """Say a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing of it moves."""

    def __enter__(self) -> StageTimes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stages_of(finished: list[tuple[int, str, float, int]], seconds: float) -> dict[str, dict[str, Any]]:
    """What is reported of the stages.

    Args:
        finished: as `StageTimes` has it.
        seconds: of all together.

    Returns:
        Stage -> seconds, images, images_per_second (None where there are none), in the order of the work:
        the listing, round 0 as one, the stages of round 1, and what is none of them.
    """
    stages: dict[str, dict[str, Any]] = {}

    def add(name: str, more: float, images: int) -> None:
        entry = stages.setdefault(name, {"seconds": 0.0, "images": 0})
        entry["seconds"] += more
        entry["images"] += images

    for round_index, stage, took, images in finished:
        if stage == LISTING:
            add("list", took, images)
        elif stage.startswith("list "):
            add(SURROUNDINGS, took, 0)
        elif round_index == 0:
            add(FIRST_ROUND, took, images if stage == "score" else 0)
        else:
            add(stage, took, images)
    add(SURROUNDINGS, seconds - sum(took for _, _, took, _ in finished), 0)
    for entry in stages.values():
        entry["seconds"] = round(entry["seconds"], 3)
        rate = entry["images"] / entry["seconds"] if entry["images"] and entry["seconds"] else None
        entry["images_per_second"] = None if rate is None else round(rate, 1)
    return stages


def main(directory: Path) -> None:
    """Do the job of a directory; what a user can mend is left as `error` in result.json."""
    job = RoundJob(**json.loads((directory / JOB).read_text()))
    view = StageTimes()
    began = time.perf_counter()
    try:
        result = run(config_of(job), job.run_dir, progress=view)
    except UserError as error:
        answer: dict[str, Any] = {"error": str(error)}
    else:
        seconds = time.perf_counter() - began
        answer = {
            "seconds": round(seconds, 3),
            "stages": stages_of(view.finished, seconds),
            "neighbors": result.rounds[-1]["neighbors"],
            "accuracy": result.rounds[-1]["accuracy"],
            "rejected": result.rounds[-1]["rejected"],
        }
    (directory / RESULT).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

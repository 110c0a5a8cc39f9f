"""All that needs a GPU, in one call: python -m dm2at_ray.bench.gpu.

Checks and times the GPU kernels of the neighbour search (`dm2at_ray.neighbors.gpu.check`), and times training
(`dm2at_ray.bench.train`), each in a process of its own. Prints one JSON object: `neighbors`, and `train` by
run; a part that failed has an `error` instead of figures. Exit code 2 where there is no GPU, 1 where a part
failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

DESCRIPTION = "All that needs a GPU, in one call; prints one JSON object."

RESNET18 = ("--model", "resnet18", "--image-size", "32", "--channels", "3", "--device", "cuda", "--defaults")

TRAIN_RUNS = {
    "float32": (*RESNET18, "--batch-size", "128", "--precision", "float32"),
    "bf16": (*RESNET18, "--batch-size", "512", "--precision", "bf16"),
    "bf16_compiled": (*RESNET18, "--batch-size", "512", "--precision", "bf16", "--compile"),
}
"""Name -> options of `dm2at bench train`: what many train with, and what this package can do."""

GRACE = 240.0
"""Seconds that a part has beside its measurements: imports, compiling, checks."""

LAST_LINES = 3


def main(arguments: Sequence[str]) -> int:
    """Run all parts, print what they found, and return the exit code.

    Args:
        arguments: as on the command line, without the command.
    """
    parser = argparse.ArgumentParser(prog="python -m dm2at_ray.bench.gpu", description=DESCRIPTION)
    parser.add_argument("--seconds", type=float, default=120, help="of the neighbour kernels' timing (120)")
    parser.add_argument("--turns", type=int, default=25, help="of every training loop (25)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench.gpu: torch sees no CUDA GPU on this machine; nothing was run", file=sys.stderr)
        return 2
    found: dict[str, dict[str, object]] = {
        "neighbors": part(
            ["dm2at_ray.neighbors.gpu.check", "--seconds", str(options.seconds)], options.seconds + GRACE
        ),
        "train": {
            name: part(
                ["dm2at_ray.bench.train", *chosen, "--turns", str(options.turns), "--json"],
                5 * options.turns + GRACE,
            )
            for name, chosen in TRAIN_RUNS.items()
        },
    }
    print(json.dumps(found, indent=1))
    parts = [found["neighbors"], *found["train"].values()]
    return int(any(isinstance(each, dict) and "error" in each for each in parts))


def part(module: Sequence[str], limit: float) -> dict[str, object]:
    """Run a module that prints one JSON object.

    Args:
        module: its name, and its arguments.
        limit: seconds after which it is ended.

    Returns:
        The object, and the `seconds` that it took; an `error` where it failed.
    """
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", *module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {limit:g} s"}
    said = " | ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
    try:
        answer: dict[str, object] = json.loads(done.stdout)
    except ValueError:
        return {"error": f"ended with code {done.returncode}: {said or 'nothing said'}"}
    if done.returncode:
        answer["error"] = f"ended with code {done.returncode}"
    return {**answer, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`dm2at bench train`: its options, and what it prints.

By argparse and not by typer, which imports pydantic: `python -m dm2at_ray.bench.train` takes the same options
on a GPU machine that has neither pydantic nor Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dm2at_ray.bench.process import ended_by_sigterm
from dm2at_ray.bench.train_report import rates_table, train_notes
from dm2at_ray.bench.train_settings import ON_CPU, ON_GPU, PRECISIONS, TrainBenchSettings
from dm2at_ray.bench.train_study import train_study
from dm2at_ray.errors import UserError

DESCRIPTION = """\
Time clean training, the textbook's FGSM training and ours for the same attack, by turns in one run: labeled
samples per second, each counted once, though adversarial training takes a clean and an adversarial image of
it. Half the clean rate is the limit of adversarial training with a one-step attack."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print what it found.

    Args:
        arguments: as on the command line, without the command.

    Returns:
        Exit code: 0.

    Raises:
        UserError: an option is out of range, or the model cannot be built.
        SystemExit: arguments that are no options of this command, or --help.
    """
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    settings = TrainBenchSettings(**options)
    with ended_by_sigterm():
        report = train_study(settings, progress=lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False))
        return 0
    Console().print(rates_table(report))
    for line in train_notes(report):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    """Options named as the fields of the settings; what is not given is left out: their defaults hold."""
    parser = argparse.ArgumentParser(
        prog="dm2at bench train",
        description=DESCRIPTION,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--model", metavar="NAME", help=f"small_cnn, resnet18, ... ({_defaults('model')})")
    add("--image-size", type=int, metavar="PIXELS", help=f"height and width ({_defaults('image_size')})")
    add("--channels", type=int, metavar="C", help=f"channels of an image ({_defaults('channels')})")
    add("--batch-size", type=int, metavar="N", help=f"samples of a step ({_defaults('batch_size')})")
    add("--seconds", type=float, metavar="S", help="of a turn of one loop (0.5)")
    add("--turns", type=int, metavar="T", help="turns of every loop; the median counts (25)")
    add("--device", metavar="DEVICE", help="where to train: cpu, cuda (cpu)")
    add("--threads", type=int, metavar="T", help="CPU threads (all cores)")
    add(
        "--precision",
        metavar="NAME",
        help=f"of clean and ours: {', '.join(PRECISIONS)} ({_defaults('precision')})",
    )
    add("--compile", action="store_true", help="clean and ours go through torch.compile")
    add("--defaults", action="store_true", help="time ours with its default attack and passes, too")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of Fashion-MNIST's four IDX files (where the system has them, else digits are taken)",
    )
    add("--seed", type=int, metavar="SEED", help="of weights and order (0)")
    add("--json", dest="as_json", action="store_true", default=False, help="print one JSON object")
    return parser


def _defaults(name: str) -> str:
    return f"{getattr(ON_CPU, name)}; on a GPU {getattr(ON_GPU, name)}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)

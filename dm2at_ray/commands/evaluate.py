"""`dm2at evaluate`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Optional

import typer
from rich.console import Console

from dm2at_ray.commands.interrupts import signals_raise
from dm2at_ray.commands.options import JsonOption, ModelOption, RoundOption, RunDirArgument, import_only


def evaluate(
    run_dir: RunDirArgument,
    attacks: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--attack",
            help="clean, fgsm, pgd or autoattack (needs the extra `robust`). May be given several times; "
            "the first three if left out.",
        ),
    ] = None,
    round_index: RoundOption = None,
    pgd_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Steps of PGD; as in the run if left out."),
    ] = None,
    pgd_restarts: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Random starts of PGD; as in the run if left out."),
    ] = None,
    max_images: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Take the first so many held-out images; all of them if left out."),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a round's model on the held-out images, per class and with 95 % confidence intervals."""
    from dm2at_ray.monitoring.evaluations import evaluation_tables
    from dm2at_ray.monitoring.progress import make_progress
    from dm2at_ray.run_evaluation import ROUND_ATTACKS, Request, evaluate_run
    from dm2at_ray.uri import absolute_uri

    run_dir = absolute_uri(run_dir)
    import_only(model)
    attacks_asked_for = tuple(attacks or ROUND_ATTACKS)
    request = Request(attacks_asked_for, round_index, pgd_steps, pgd_restarts, max_images, model)
    view = make_progress(sys.stderr if as_json else sys.stdout)
    with signals_raise("attacks that were finished stay written"), view:
        result = evaluate_run(run_dir, request, view)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    Console().print(*evaluation_tables(list(result["evaluations"].values())), sep="\n")
    print(f"written to {result['written_to']}")

"""`dm2at bench`: benchmarks to run on one's own hardware."""

from __future__ import annotations

import typer

app = typer.Typer(help="Benchmarks to run on your own hardware.", no_args_is_help=True)


@app.command(
    "neighbors",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def neighbors(context: typer.Context) -> None:
    """Time neighbour search beside other libraries on your own hardware; --help lists the options."""
    from dm2at_ray.bench.neighbors import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@app.command(
    "train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def train(context: typer.Context) -> None:
    """Time clean training, the textbook's FGSM training and ours; --help lists the options."""
    from dm2at_ray.bench.train import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@app.command(
    "robustness",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def robustness(context: typer.Context) -> None:
    """Compare ways of adversarial training under FGSM and PGD; --help lists the options."""
    from dm2at_ray.bench.robustness import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@app.command(
    "pool",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def pool(context: typer.Context) -> None:
    """Play a selection round on a pool of any size and watch its memory; --help lists the options."""
    from dm2at_ray.bench.pool import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))


@app.command(
    "serve",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Have many label at once over HTTP, and look for every label afterwards; --help lists the options."""
    from dm2at_ray.bench.serve import main as run_benchmark

    raise typer.Exit(run_benchmark(context.args))

"""What all benchmarks print alike: their tables, and how much of the machine others took meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

NOISE_CORES = 0.2
"""A core's share that a system at rest takes now and then."""


def figures_table(title: str, *columns: str, names: str) -> Table:
    """An empty table of figures, which are right-justified.

    Args:
        title: of the table.
        *columns: their names.
        names: the column that holds names rather than figures.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == names else "right", no_wrap=True)
    return table


def processor(machine: Mapping[str, object]) -> str:
    """What did the work: the GPU, where there is one, else the CPU."""
    return str(machine["gpu"] or machine["cpu"])


def was_disturbed(
    other_cores: float | None, machine: Mapping[str, object], settings: Mapping[str, object]
) -> bool:
    """Whether other processes left too few cores.

    Args:
        other_cores: CPU cores that they took; None where the system does not tell.
        machine: has `cores`.
        settings: has `threads`, the cores that were asked for.

    Examples:
        >>> [was_disturbed(taken, {"cores": 4}, {"threads": 3}) for taken in (None, 1.1, 1.3)]
        [False, False, True]
    """
    free = int(str(machine["cores"])) - int(str(settings["threads"]))
    return other_cores is not None and other_cores > free + NOISE_CORES

"""What a training benchmark found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from dm2at_ray.bench.tables import figures_table, processor, was_disturbed

NAMES = {
    "clean": "clean training",
    "textbook_fgsm": "textbook FGSM",
    "ours": "ours, the same attack",
    "ours_default": "ours, default attack",
}
"""Loop -> what the table calls it."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """All that a benchmark found; a rate is the median over the turns, in labeled samples per second.

    An adversarial loop trains on a clean and an adversarial image of each sample, which count as one.

    Attributes:
        clean: rate of clean training, in the precision of ours.
        textbook_fgsm: rate of the textbook loop, in float32.
        ours: rate of ours with the same λ, ε and attack.
        ours_default: rate of ours with the default attack and passes; None where not asked for.
        time_vs_textbook: seconds per sample of ours over the textbook's.
        fraction_of_limit: rate of ours over half the clean one.
        turns: every rate of each loop.
        loss: mean loss per sample in the last step of each loop.
        machine: processor, cores, versions.
        images: what was trained on.
        settings: of the loops and of the timing.
        other_cores: CPU cores that other processes took meanwhile; None where the system does not tell.
    """

    clean: float
    textbook_fgsm: float
    ours: float
    ours_default: float | None
    time_vs_textbook: float
    fraction_of_limit: float
    turns: dict[str, list[float]]
    loss: dict[str, float]
    machine: dict[str, object]
    images: str
    settings: dict[str, object]
    other_cores: float | None


def rates_table(report: TrainReport) -> Table:
    """Lay the rates out for a terminal."""
    columns = ("loop", "median", "lowest", "highest", "time vs textbook", "of the limit")
    table = figures_table("labeled samples per second", *columns, names="loop")
    for loop, rates in report.turns.items():
        rate = getattr(report, loop)
        adversarial = loop != "clean"
        table.add_row(
            NAMES[loop],
            *(f"{value:,.0f}" for value in (rate, min(rates), max(rates))),
            f"{report.textbook_fgsm / rate:.3f}" if adversarial else "",
            f"{rate / (report.clean / 2):.3f}" if adversarial else "",
        )
    return table


def train_notes(report: TrainReport) -> list[str]:
    """Say in lines what the table leaves out."""
    machine, settings = report.machine, report.settings
    size, channels = settings["image_size"], settings["channels"]
    compiled = ", compiled" if settings["compile"] else ""
    lines = [
        f"{processor(machine)}, {settings['threads']} threads of {machine['cores']} cores; "
        f"torch {machine['torch']}",
        f"{settings['model']} on {report.images}, scaled to {size} x {size} x {channels}, "
        f"batches of {settings['batch_size']}",
        f"clean and ours: {settings['precision']}{compiled}; textbook: float32, three forward and three "
        "backward passes a step",
        "a sample is counted once, though adversarial loops train on its clean and its adversarial image; "
        "the limit: half the clean rate",
        f"medians of {settings['turns']} turns of {settings['seconds']:g} s, the loops by turns",
    ]
    if was_disturbed(report.other_cores, machine, settings):
        lines.append(f"other processes took {report.other_cores:.1f} cores; run it again alone")
    return lines

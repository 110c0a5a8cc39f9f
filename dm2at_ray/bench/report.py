"""What a neighbour benchmark found: rows, growth with n, and how both are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from dm2at_ray.bench.hardness import Hardness
from dm2at_ray.bench.tables import figures_table, processor, was_disturbed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine or peer on one pool.

    Attributes:
        engine: name of the engine or peer.
        engine_used: what `auto` stood for.
        metric: what it searched under; `recall` is measured under D = L1 + L2 for all.
        n: rows of the pool.
        d: features of a row.
        k: neighbours of each row.
        device: where it worked.
        seconds: of the whole search, without warm-up; None where it failed.
        estimated: whether `seconds` is scaled up from the share of the rows that the time limit allowed.
        share: that share.
        pairs_dims_per_second: n * n * d / seconds.
        recall: share of the true k nearest found, over `audited` random queries.
        audited: queries checked.
        ratio_to_cdist: seconds of torch.cdist in the same study over these seconds.
        peak_rss_bytes: highest resident memory of its process, imports and features included.
        imports_rss_bytes: of that, what stood there before the features were read.
        peak_device_bytes: highest memory of the GPU.
        compile_seconds: what the first warm-up took more than the second; not part of `seconds`.
        other_cores: CPU cores that other processes took while it was timed.
        error: why there are no figures.
    """

    engine: str
    n: int
    d: int
    k: int
    metric: str
    device: str
    engine_used: str | None = None
    seconds: float | None = None
    estimated: bool = False
    share: float = 1.0
    pairs_dims_per_second: float | None = None
    recall: float | None = None
    audited: int = 0
    ratio_to_cdist: float | None = None
    peak_rss_bytes: int | None = None
    imports_rss_bytes: int | None = None
    peak_device_bytes: int | None = None
    compile_seconds: float | None = None
    other_cores: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a time grows with n: seconds = c * n ** exponent, by least squares of the logarithms.

    Attributes:
        engine: name of the engine or peer.
        sizes: the n it was fitted to.
        exponent: the slope.
    """

    engine: str
    sizes: list[int]
    exponent: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a benchmark found.

    Attributes:
        machine: processor, cores, versions.
        source: what the features are of.
        settings: threads, seed, audit_queries and the like.
        hardness: of the pool of each n.
        rows: engines and peers, in the order in which they ran.
        growth: where there are two sizes or more.
        missing_peers: peers that are not installed.
    """

    machine: dict[str, object]
    source: str
    settings: dict[str, object]
    hardness: dict[int, Hardness]
    rows: list[Row]
    growth: list[Growth]
    missing_peers: list[str]


def fit_growth(rows: Sequence[Row]) -> list[Growth]:
    """Fit the exponent of every engine and peer that was timed at two sizes or more.

    Examples:
        >>> common = {"engine": "exact", "d": 8, "k": 1, "metric": "L1 + L2", "device": "cpu"}
        >>> rows = [Row(n=n, seconds=2e-8 * n**2, **common) for n in (1000, 2000, 4000)]
        >>> [(fit.engine, round(fit.exponent, 3)) for fit in fit_growth(rows)]
        [('exact', 2.0)]
    """
    timed: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.seconds is not None:
            timed.setdefault(row.engine, {})[row.n] = row.seconds
    return [
        Growth(
            engine=engine,
            sizes=sorted(times),
            exponent=float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]),
        )
        for engine, times in timed.items()
        if len(times) > 1
    ]


def rows_table(rows: Sequence[Row]) -> Table:
    """Lay the rows out for a terminal."""
    title = f"{rows[0].k} nearest of n rows with {rows[0].d} features"
    columns = ("n", "engine", "seconds", "Gpd/s", "recall", "vs cdist", "GiB", "compile")
    table = figures_table(title, *columns, names="engine")
    before = None
    for row in rows:
        if before is not None and row.n != before:
            table.add_section()
        before = row.n
        used = f" ({row.engine_used})" if row.engine_used else ""
        table.add_row(f"{row.n:,}", row.engine + used, *_figures(row))
    return table


def notes(report: Report) -> list[str]:
    """Say in lines what the table leaves out."""
    machine, settings = report.machine, report.settings
    lines = [
        f"{processor(machine)}, {settings['threads']} threads of {machine['cores']} cores; "
        f"torch {machine['torch']}, numba {machine['numba']}, NumPy {machine['numpy']}",
        f"features: {report.source}",
    ]
    lines += [f"  n = {n:,}: {_hardness(hardness)}" for n, hardness in report.hardness.items()]
    lines.append(
        f"recall: of the {report.rows[0].k} nearest under D = L1 + L2, over {_audited(report.rows)} random "
        "queries against a float64 reference; peers named -l1 search under L1 only"
    )
    lines.append(
        "Gpd/s: 10⁹ pairs times dimensions per second, counting all n² pairs; vs cdist: times as fast"
    )
    lines.append(
        "seconds: without warm-up and compiling; GiB: peak resident memory of a process of its own, features "
        f"and {_megabytes(report.rows)} of imports included"
    )
    lines += [
        f"~ {row.engine} at n = {row.n:,}: scaled from {row.share:.2%} of the rows, which the limit allowed"
        for row in report.rows
        if row.estimated
    ]
    lines += [
        f"{row.engine} at n = {row.n:,}: other processes took {row.other_cores:.1f} cores; run it again alone"
        for row in report.rows
        if was_disturbed(row.other_cores, machine, settings)
    ]
    lines += [f"{row.engine} at n = {row.n:,} failed: {row.error}" for row in report.rows if row.error]
    lines += [
        f"growth of {fit.engine}: seconds ~ n^{fit.exponent:.2f} over n = "
        + ", ".join(f"{n:,}" for n in fit.sizes)
        for fit in report.growth
    ]
    if report.missing_peers:
        lines.append(f"not installed: {', '.join(report.missing_peers)}")
    return lines


def _figures(row: Row) -> list[str]:
    if row.seconds is None:
        return ["failed", *[""] * 5]
    assert row.pairs_dims_per_second is not None
    assert row.recall is not None
    assert row.peak_rss_bytes is not None
    assert row.compile_seconds is not None
    return [
        f"{'~' if row.estimated else ''}{_rounded(row.seconds)}",
        _rounded(row.pairs_dims_per_second / 1e9),
        f"{row.recall:.5f}",
        "" if row.ratio_to_cdist is None else _rounded(row.ratio_to_cdist),
        f"{row.peak_rss_bytes / 2**30:.2f}",
        f"{row.compile_seconds:.1f}",
    ]


def _rounded(value: float) -> str:
    """Three figures, none of them an exponent.

    Examples:
        >>> [_rounded(value) for value in (0.01234, 1.5, 123.4, 12345.6, 0.0)]
        ['0.0123', '1.50', '123', '12,346', '0.00']
    """
    digits = 2 if value <= 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def _hardness(hardness: Hardness) -> str:
    ratio = "none" if hardness.kth_to_median is None else f"{hardness.kth_to_median:.3f}"
    lid = "none" if hardness.lid is None else f"{hardness.lid:.1f}"
    return f"k-th nearest / median distance {ratio}, LID {lid}, zeros {hardness.zero_share:.1%}"


def _audited(rows: Sequence[Row]) -> str:
    counts = sorted({row.audited for row in rows if row.audited})
    return " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "no"


def _megabytes(rows: Sequence[Row]) -> str:
    sizes = sorted(row.imports_rss_bytes // 2**20 for row in rows if row.imports_rss_bytes)
    return " to ".join(f"{size}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]])) + " MiB"

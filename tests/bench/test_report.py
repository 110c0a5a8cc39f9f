"""What is printed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dm2at_ray.bench.hardness import Hardness
from dm2at_ray.bench.report import Growth, Report, Row, fit_growth, notes, rows_table

COMMON = {"d": 512, "k": 10, "metric": "L1 + L2", "device": "cpu"}
MEASURED = {
    "pairs_dims_per_second": 2.5e10,
    "recall": 0.99991,
    "audited": 1000,
    "ratio_to_cdist": 21.5,
    "peak_rss_bytes": 3 << 29,
    "imports_rss_bytes": 500 << 20,
    "compile_seconds": 12.3,
    "other_cores": 0.1,
}
ROWS = [
    Row(engine="auto", engine_used="shortlist", n=1_000_000, seconds=123.4, **COMMON, **MEASURED),
    Row(engine="cdist", n=1_000_000, seconds=98765.4, estimated=True, share=0.0031, **COMMON, **MEASURED),
    Row(engine="exact", n=2_000_000, error="given up after 60 s", **COMMON),
]


def report(rows: list[Row], **changes: object) -> Report:
    values: dict = {
        "machine": {"cpu": "a CPU", "gpu": None, "cores": 2, "torch": "2.9", "numba": None, "numpy": "2.0"},
        "source": "collages",
        "settings": {"threads": 2},
        "hardness": {1_000_000: Hardness(0.41, 11.2, 0.05)},
        "rows": rows,
        "growth": [Growth(engine="auto", sizes=[15000, 30000], exponent=1.4142)],
        "missing_peers": ["faiss-l1"],
    }
    return Report(**{**values, **changes})


def test_rows_table__fits_into_eighty_columns() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(rows_table(ROWS))
    lines = output.getvalue().splitlines()
    cells = [line.split() for line in lines if line.strip().startswith(("1,", "2,"))]
    assert cells == [
        ["1,000,000", "auto", "(shortlist)", "123", "25.0", "0.99991", "21.5", "1.50", "12.3"],
        ["1,000,000", "cdist", "~98,765", "25.0", "0.99991", "21.5", "1.50", "12.3"],
        ["2,000,000", "exact", "failed"],
    ]
    assert "…" not in output.getvalue()


def test_notes__say_what_the_table_does_not() -> None:
    text = "\n".join(notes(report(ROWS)))
    for part in (
        "a CPU, 2 threads of 2 cores",
        "k-th nearest / median distance 0.410, LID 11.2, zeros 5.0%",
        "over 1,000 random queries",
        "500 MiB of imports",
        "~ cdist at n = 1,000,000: scaled from 0.31% of the rows",
        "exact at n = 2,000,000 failed: given up after 60 s",
        "growth of auto: seconds ~ n^1.41 over n = 15,000, 30,000",
        "not installed: faiss-l1",
    ):
        assert part in text


@pytest.mark.parametrize(("threads", "others", "said"), [(2, 0.1, False), (2, 0.9, True), (1, 0.9, False)])
def test_notes__warn_where_others_took_the_cores(threads: int, others: float, said: bool) -> None:
    row = Row(engine="exact", n=1000, seconds=1.0, **COMMON, **{**MEASURED, "other_cores": others})
    lines = notes(report([row], settings={"threads": threads}))
    assert any("other processes took 0.9 cores" in line for line in lines) == said


def test_notes__where_all_failed() -> None:
    lines = notes(report(ROWS[2:], hardness={2_000_000: Hardness(None, None, 0.0)}))
    assert "  n = 2,000,000: k-th nearest / median distance none, LID none, zeros 0.0%" in lines


def test_fit_growth__by_engine_and_only_where_timed_twice() -> None:
    rows = [Row(engine="exact", n=n, seconds=3e-7 * n**1.5, **COMMON) for n in (100, 400, 900)]
    rows += [Row(engine="cdist", n=n, seconds=None, error="broke", **COMMON) for n in (100, 400)]
    rows += [Row(engine="auto", n=100, seconds=1.0, **COMMON)]
    (fit,) = fit_growth(rows)
    assert (fit.engine, fit.sizes) == ("exact", [100, 400, 900])
    assert fit.exponent == pytest.approx(1.5)

"""Tables as they look where there is no terminal: 80 columns, no colour."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from dm2at_ray.monitoring.tables import round_costs_table, rounds_table


def printed(table: Table) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def words(line: str) -> str:
    return " ".join(line.split())


def test_rounds_table__one_row_a_round(rounds: list[dict[str, Any]]) -> None:
    assert printed(rounds_table(rounds)) == [
        "round  labels   clean    FGSM     PGD  train acc.    time",
        "─────────────────────────────────────────────────────────",
        "    0      20  75.0 %  50.0 %  25.0 %     100.0 %  10.2 s",
        "    1      24  87.5 %  62.5 %  50.0 %      96.9 %   9.0 s",
    ]


def test_rounds_table__what_was_not_measured_is_a_dash(rounds: list[dict[str, Any]]) -> None:
    rounds[0]["accuracy"] = {}
    rounds[1]["accuracy"]["autoattack"] = 0.375
    lines = printed(rounds_table(rounds))
    assert words(lines[0]) == "round labels clean FGSM PGD AutoAttack train acc. time"
    assert words(lines[2]) == "0 20 – – – – 100.0 % 10.2 s"  # noqa: RUF001
    assert words(lines[3]) == "1 24 87.5 % 62.5 % 50.0 % 37.5 % 96.9 % 9.0 s"


def test_rounds_table__large_numbers_do_not_wrap(rounds: list[dict[str, Any]]) -> None:
    large = rounds[1] | {"round": 1000, "labeled": 10_000_000, "stage_seconds": {"train": 360_000.0}}
    lines = printed(rounds_table([large]))
    assert len(lines) == 3
    assert words(lines[2]) == "1000 10,000,000 87.5 % 62.5 % 50.0 % 96.9 % 100 h 00 min"


def test_round_costs_table__seconds_by_stage_and_their_means(rounds: list[dict[str, Any]]) -> None:
    assert printed(round_costs_table(rounds)) == [
        "seconds by stage",
        "round  embed  neighbors  score  craft  label  train  evaluate   sum",
        "───────────────────────────────────────────────────────────────────",
        "    0      –          –      –      –    0.2    8.0       2.0  10.2",  # noqa: RUF001
        "    1    1.5        0.5    0.5    0.2    0.2    4.0       2.0   9.0",
        "",
        " mean    1.5        0.5    0.5    0.2    0.2    6.0       2.0   9.6",
    ]


def test_round_costs_table__hours_in_every_stage_still_fit(rounds: list[dict[str, Any]]) -> None:
    slow = rounds[1] | {"stage_seconds": dict.fromkeys(rounds[1]["stage_seconds"], 9999.9)}
    lines = printed(round_costs_table([slow]))
    assert len(lines) == 4
    assert lines[3].split() == ["1", *["10,000"] * 7, "69,999"]

"""Numbers as a person reads them: the same words at the terminal, in the tables and in the report."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "\N{EN DASH}"


def duration(seconds: float) -> str:
    """Seconds in the two units that matter.

    Examples:
        >>> duration(3.14), duration(125.2), duration(3750)
        ('3.1 s', '2 min 05 s', '1 h 02 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def rate(amount: float, seconds: float) -> str:
    """Amount per second, or nothing where the time is too short to say.

    Examples:
        >>> rate(1237, 3.1), rate(5, 4.0), rate(5, 0.0)
        ('399/s', '1.2/s', '')
    """
    if amount <= 0 or seconds < 0.05:
        return ""
    per_second = amount / seconds
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; a dash for what was not measured.

    Examples:
        >>> percent(0.9512), percent(None)
        ('95.1 %', '–')
    """
    return NOTHING if fraction is None else f"{100 * fraction:.1f} %"


def percent_range(interval: Sequence[float] | None) -> str:
    """An interval of fractions as one of percentages; a dash for what was not measured.

    Examples:
        >>> percent_range([0.9289, 0.9712]), percent_range(None)
        ('92.9–97.1 %', '–')
    """
    if interval is None:
        return NOTHING
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"{low}{NOTHING}{high} %"

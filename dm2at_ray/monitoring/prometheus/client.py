"""Questions to a Prometheus over its HTTP API."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from dm2at_ray.errors import UserError

ANSWER_SECONDS = 30


class QueryError(UserError):
    """Prometheus cannot be asked, or does not understand an expression."""


@dataclass(frozen=True)
class Series:
    """Values of one combination of labels: Unix times and what was there."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """A Prometheus that answers at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def at(self, expr: str, time: float | None = None) -> list[Series]:
        """What an expression gives at one moment, now if left out.

        Raises:
            QueryError: Nobody answers there, or the expression is wrong.
        """
        found = self._ask("query", {"query": expr} if time is None else {"query": expr, "time": repr(time)})
        if found["resultType"] == "scalar":
            return [_series({}, [found["result"]])]
        return [_series(each["metric"], [each["value"]]) for each in found["result"]]

    def between(self, expr: str, begin: float, end: float, step: float) -> list[Series]:
        """What an expression gives every `step` seconds from `begin` to `end`.

        Raises:
            QueryError: Nobody answers there, or the expression is wrong.
        """
        span = {"start": repr(begin), "end": repr(end), "step": repr(step)}
        found = self._ask("query_range", {"query": expr, **span})
        return [_series(each["metric"], each["values"]) for each in found["result"]]

    def get(self, path: str) -> Any:
        """The data of another of its resources, such as `rules` or `targets`."""
        return self._ask(path, {})

    def _ask(self, path: str, fields: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise QueryError(f"{fields.get('query', path)}: {said}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise QueryError(f"{self.url}: no Prometheus answers ({reason}); give its URL") from None


def _series(labels: dict[str, str], points: list[list[Any]]) -> Series:
    return Series(labels, [float(time) for time, _ in points], [float(value) for _, value in points])

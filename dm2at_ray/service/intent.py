"""What is wanted of a run, as the service keeps it in the run directory: `service.json`."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dm2at_ray.store.files import Files

INTENT_FILE = "service.json"

Wanted = Literal["running", "paused", "stopped"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intent:
    """What somebody has asked for. It is written before it is done, so that another server can finish it.

    Attributes:
        wanted: What the run should be.
        advance: Whether its next step starts by itself.
        config: Its YAML, every field with its value.
        by: Who said so last.
        time: When.
        due: Whether a job is to be submitted, whatever the last one has said.
        job: The last Ray job that played it; None before the first.
        ending: The job that was told to end last, which takes it a while.
        heard: The time in status.json when the job was submitted: a later word is that job's own.
        tried: Round and number of answers that it awaited then.
        trouble: Why it could not be submitted; empty where it could.
    """

    wanted: Wanted
    advance: bool
    config: str
    by: str
    time: float
    due: bool = False
    job: str | None = None
    ending: str | None = None
    heard: float | None = None
    tried: tuple[int, int] | None = None
    trouble: str = ""


_FORM = TypeAdapter(Intent)
_KNOWN = frozenset(Intent.__dataclass_fields__)


def intent_of(values: Any, origin: str) -> Intent | None:
    """The intent in a parsed service.json; None where it is none, as in a directory of somebody else's."""
    if not isinstance(values, dict):
        return None
    try:
        return _FORM.validate_python({name: value for name, value in values.items() if name in _KNOWN})
    except ValidationError as error:
        logger.warning("%s: not as the service writes it: %s", origin, " ".join(str(error).split())[:200])
        return None


def write_intent(files: Files, intent: Intent) -> None:
    """Keep it in the run directory."""
    files.write_json(INTENT_FILE, asdict(intent))

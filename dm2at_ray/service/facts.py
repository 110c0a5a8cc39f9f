"""What the files of a run say, as far as they are as the drivers and the service write them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dm2at_ray.service.intent import INTENT_FILE, intent_of
from dm2at_ray.service.standing import Facts, Word
from dm2at_ray.store import RunDirectory
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LEASE_FILE, has_spoken

STATUS_FILE = "status.json"

logger = logging.getLogger(__name__)


def read_facts(directory: RunDirectory, now: float) -> Facts:
    """What is known of a run by its files; what somebody else wrote there is as good as nothing.

    Args:
        directory: Of the run.
        now: The time, in seconds since the epoch.
    """
    intent = intent_of(_read_json(directory.files, INTENT_FILE), f"{directory.uri}/{INTENT_FILE}")
    status, lease = (_read_json(directory.files, name) for name in (STATUS_FILE, LEASE_FILE))
    lease = lease if _is_lease(lease) else {}
    return Facts(
        intent=intent,
        word=Word.of(status if isinstance(status, dict) else {}),
        driver_lives=has_spoken(lease, now),
        driver_time=lease.get("time", 0.0),
    )


def _read_json(files: Files, name: str) -> Any:
    """What a JSON file says; None where there is none, or something else of that name."""
    try:
        return files.read_json(name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None
    except ValueError:
        logger.warning("%s: not JSON", files.path(name))
        return None
    except OSError:
        if files.local_root is not None and not Path(files.path(name)).is_file():
            return None
        raise


def _is_lease(value: Any) -> bool:
    kinds = {"host": (str,), "boot": (str,), "pid": (int,), "time": (int, float)}
    return isinstance(value, dict) and all(isinstance(value.get(key), kinds[key]) for key in kinds)

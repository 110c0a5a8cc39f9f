"""Takes into the index what the run, and importers elsewhere, have written into the run directory."""

from __future__ import annotations

import math
import time
from threading import Lock

import pyarrow as pa

from dm2at_ray.errors import UserError
from dm2at_ray.labeling.book import FOLDER, LabelBook
from dm2at_ray.service.index import Index
from dm2at_ray.service.log_intake import LogIntake
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.round_intake import RoundIntake
from dm2at_ray.store import RunDirectory

_REST, _LONGEST_REST = 20, 15.0
"""For so many times as long as a look took, or so many seconds, nobody looks again: a long log takes long."""
_QUICK = 0.2


class Intake:
    """Keeps an index up with its run directory.

    Args:
        run: The run directory.
        index: Its index.
    """

    def __init__(self, run: RunDirectory, index: Index) -> None:
        self._name = run.name
        self._index = index
        self._rounds = RoundIntake(run, index)
        self._log = LogIntake(LabelBook(run), index)
        self._turn = Lock()
        self._looked = -math.inf
        self._cost = 0.0
        root = run.files.local_root
        self._log_folder = None if root is None else root / FOLDER
        self._log_mark: int | None = None

    def look(self, older_than: float) -> None:
        """Take in what is new, where the last look is older than so many seconds; always for 0.

        Who comes while another looks does not wait for them, unless it is the first look or an ordered one.

        Raises:
            ProblemError: The run directory cannot be read.
        """
        ordered = older_than <= 0 or self._looked == -math.inf
        rest = min(_REST * self._cost, _LONGEST_REST)
        if not ordered and time.monotonic() - self._looked < max(older_than, rest):
            return
        first = self._looked == -math.inf
        if not self._turn.acquire(blocking=ordered):
            return
        try:
            if first and self._looked != -math.inf and older_than > 0:
                return
            begin = time.monotonic()
            self._take_all()
            self._looked = time.monotonic()
            self._cost = self._looked - begin
        except (OSError, pa.ArrowException, UserError) as error:
            raise ProblemError("unreachable", f"run {self._name}: {' '.join(str(error).split())}") from error
        finally:
            self._turn.release()

    def look_before_writing(self) -> None:
        """Take in what others have just added to the log, where that is seen without listing it."""
        mark = self._mark_of_log()
        if mark != self._log_mark:
            # Where the log takes long to list, those who answer do not wait for it again and again.
            self.look(0 if self._cost < _QUICK else 1e-3)
            self._log_mark = mark

    def has_written(self) -> None:
        """Note that the last change of the log's folder was our own."""
        self._log_mark = self._mark_of_log()

    def _mark_of_log(self) -> int | None:
        try:
            return None if self._log_folder is None else self._log_folder.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _take_all(self) -> None:
        self._rounds.forget_another_run()
        self._rounds.take()
        if self._log.take() and self._log.take():
            # Files of the log are gone for good: somebody has taken them away.
            self._index.clear()
            self._rounds.take()
            self._log.take()

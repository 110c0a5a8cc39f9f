"""What is wrong with an answer: held against what the run knows, and against the other answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dm2at_ray.labeling.formats import CANNOT_TELL, Answer

NEW, SKIPPED, CORRECTION, SAME, REPEATED, OPEN = (
    "new",
    "skipped",
    "correction",
    "same",
    "repeated",
    "open",
)
UNKNOWN_SAMPLE, NOT_ASKED, OTHER_IMAGE, UNKNOWN_CLASS, CONFLICT = (
    "unknown_sample",
    "not_asked",
    "other_image",
    "unknown_class",
    "conflict",
)
KINDS = {
    NEW: "new",
    SKIPPED: "cannot tell",
    CORRECTION: "corrected",
    SAME: "as before",
    REPEATED: "repeated in the files",
    OPEN: "left open",
    UNKNOWN_SAMPLE: "refused: no such sample",
    NOT_ASKED: "refused: never asked for",
    OTHER_IMAGE: "refused: another image than the run has under this id",
    UNKNOWN_CLASS: "refused: no such class",
    CONFLICT: "refused: different labels for one sample",
}
"""What can become of a line -> in words; the last five are to be mended."""
REFUSED = (UNKNOWN_SAMPLE, NOT_ASKED, OTHER_IMAGE, UNKNOWN_CLASS, CONFLICT)
WRITTEN = (NEW, SKIPPED, CORRECTION)
_NAMES_SHOWN = 20
_SAMPLE_ID = re.compile(r"(\d{1,18})(?:\.0*)?")


@dataclass(frozen=True)
class Line:
    """What became of one line of a file.

    Attributes:
        kind: A key of `KINDS`.
        file: The file.
        where: The place in it.
        sample: The sample's id as the file has it.
        label: The label there; None for "cannot tell", or where it is left open.
        about: What else is to be said: the earlier label, the mend.
        by: Who said it.
    """

    kind: str
    file: str
    where: str
    sample: str
    label: str | None
    about: str
    by: str

    def text(self) -> str:
        """For a person, on one line."""
        said = "" if self.kind == OPEN else f" {self.label or CANNOT_TELL!r}"
        return f"{self.file}, {self.where}: sample {self.sample}{said}" + (self.about and f": {self.about}")


class Check:
    """Holds answers against what the run knows, and against each other.

    Args:
        classes: Names of the classes.
        asked: The samples that were asked for -> where their images are.
        size: Samples in the pool.
        before: What samples are labeled as so far, None for "cannot tell".
    """

    def __init__(
        self,
        classes: Sequence[str],
        asked: Mapping[int, str | None],
        size: int,
        before: Mapping[int, str | None],
    ) -> None:
        self._classes = list(dict.fromkeys(classes))
        self._known = set(classes)
        self._asked = asked
        self._size = size
        self._before = before
        self._said: dict[int, dict[str | None, str]] = {}
        self._taken: set[int] = set()
        self._advice: dict[str, str] = {}

    def label(self, answer: Answer) -> str | None:
        """The label that an answer means; None for "cannot tell", or where it is left open."""
        return None if answer.label == CANNOT_TELL and CANNOT_TELL not in self._known else answer.label

    def note(self, file: str, answer: Answer) -> None:
        """Remember what is said of a sample, and where for the first time."""
        sample, label = sample_number(answer.sample), self.label(answer)
        if sample is not None and answer.label is not None and (label is None or label in self._known):
            self._said.setdefault(sample, {}).setdefault(label, f"{file}, {answer.where}")

    def verdict(self, answer: Answer) -> tuple[str, str]:
        """What becomes of an answer, after all are noted: a key of KINDS, and what else is to be said."""
        sample, label = sample_number(answer.sample), self.label(answer)
        if sample is None or sample >= self._size:
            return UNKNOWN_SAMPLE, f"the pool has the ids 0 to {self._size - 1}"
        if sample not in self._asked:
            return NOT_ASKED, "no round has asked for it"
        if answer.place is not None and answer.place != self._asked[sample]:
            return OTHER_IMAGE, (
                f"the file says it of {answer.place}, the run has {self._asked[sample]} there; import it "
                "into the run that it was exported from"
            )
        if answer.label is None:
            return OPEN, ""
        if label is not None and label not in self._known:
            return UNKNOWN_CLASS, self._advise(label)
        said = self._said[sample]
        if len(said) > 1:
            others = [f"{each or CANNOT_TELL!r} in {at}" for each, at in said.items() if each != label]
            return CONFLICT, "but " + "; ".join(others)
        if sample in self._taken:
            return REPEATED, ""
        self._taken.add(sample)
        if sample not in self._before:
            return (SKIPPED if label is None else NEW), ""
        if self._before[sample] == label:
            return SAME, ""
        return CORRECTION, f"was {self._before[sample] or CANNOT_TELL!r}"

    def _advise(self, label: str) -> str:
        if label not in self._advice:
            known = class_advice(label, self._classes)
            self._advice[label] = f"{known}; --add-class {shlex.quote(label)} makes it one"
        return self._advice[label]


def class_advice(label: str, classes: Sequence[str]) -> str:
    """What to say where a label names no class.

    Examples:
        >>> class_advice("Cta", ["cat", "dog"])
        "did you mean 'cat'? the classes are cat, dog"
    """
    lower = {name.lower(): name for name in classes}
    near = [lower[name] for name in get_close_matches(label.lower(), lower, n=3)]
    more = len(classes) - _NAMES_SHOWN
    known = (", ".join(classes[:_NAMES_SHOWN]) or "none yet") + (f" and {more:,} more" if more > 0 else "")
    return (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + f"the classes are {known}"


def sample_number(text: str) -> int | None:
    """A sample id as a file has it, also as spreadsheets write integers; None where it is none.

    Examples:
        >>> sample_number("12"), sample_number("12.0"), sample_number("cat")
        (12, 12, None)
    """
    found = _SAMPLE_ID.fullmatch(text)
    return int(found.group(1)) if found else None

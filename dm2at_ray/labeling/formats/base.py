"""What every format takes and gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from dm2at_ray.labeling.tasks import Task
from dm2at_ray.store.files import Files

CANNOT_TELL = "cannot tell"
"""Stands for a label in every format where a person cannot tell, unless a class is named so."""
_PICTURE_NAME = re.compile(r"(?:^|[/\\=-])(\d+)\.[A-Za-z0-9]+$")


@dataclass(frozen=True)
class Answer:
    """What a file says of one sample.

    Attributes:
        sample: The sample's id as the file has it.
        label: The class's name, or CANNOT_TELL; None where the file leaves it open.
        where: The place in the file, for reports.
        by: Who said it, where the file tells.
        place: Where the image is that it was said of, as `place_text` has it, where the file tells.
    """

    sample: str
    label: str | None
    where: str
    by: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Picture:
    """The image of a sample as an export has it.

    Attributes:
        name: Path below the export's folder; or the image's own URI where it is not in there.
        width: In pixels.
        height: In pixels.
    """

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Sheet:
    """An export, before it is written.

    Attributes:
        round: The round that asks.
        tasks: Its queries.
        pictures: By sample id; those of neighbours are among them where they are exported. Empty where no
            pictures are.
        classes: Names of the classes.
        prefix: What stands before a picture's path where a tool is told of it.
    """

    round: int
    tasks: list[Task]
    pictures: dict[int, Picture]
    classes: list[str]
    prefix: str = ""

    def picture(self, sample_id: int, uri: str) -> str:
        """Where a tool finds the image of a sample: in the export, else where the pool has it."""
        found = self.pictures.get(sample_id)
        if found is None:
            return uri
        return found.name if "://" in found.name else self.prefix + found.name


class Format(Protocol):
    """A module with these two functions and the name of the file that is written last.

    `INDEX` is the file that makes an export whole: the others are written before it.
    """

    INDEX: str

    def write(self, sheet: Sheet, files: Files) -> None:
        """Write everything but the pictures, `INDEX` last."""
        ...

    def read(self, data: bytes) -> list[Answer]:
        """What a file of this format says, as the tool gives it back.

        Raises:
            LabelError: It is not of this format.
        """
        ...


def answer_text(task: Task) -> str:
    """The answer that a task has already; empty where there is none."""
    return (task.label or CANNOT_TELL) if task.answered else ""


def place_text(uri: Any, row: Any) -> str | None:
    """A place of the pool in words, to be compared with another; None where the file does not tell it.

    Examples:
        >>> place_text("pool/3.jpg", "0"), place_text("pool/3.jpg", None), place_text("", 0)
        ('pool/3.jpg, row 0', None, None)
    """
    number = "" if row is None else str(row).removesuffix(".0")
    return f"{uri}, row {number}" if uri and number.isdigit() else None


def neighbors_text(task: Task) -> str:
    """The labeled neighbours of a query in words.

    Examples:
        >>> from dm2at_ray.labeling.tasks import Neighbor
        >>> near = (Neighbor(7, 0.51234, "cat", "", 0), Neighbor(3, 12.5, "dog", "", 0))
        >>> neighbors_text(Task(1, 0, 0, None, "", 0, None, near, False, None))
        'cat (sample 7 at 0.512); dog (sample 3 at 12.5)'
    """
    return "; ".join(f"{n.label} (sample {n.sample_id} at {n.distance:.3g})" for n in task.neighbors)


def person(who: Any) -> str | None:
    """Who labeled, as Label Studio tells: a user's number, a user, or text; None where it does not.

    Examples:
        >>> person(3), person("3"), person({"id": 3, "email": "ann@example.org"}), person("")
        ('user 3', 'user 3', 'ann@example.org', None)
    """
    if isinstance(who, dict):
        return who.get("email") or person(who.get("id"))
    text = "" if who is None else str(who).strip()
    return f"user {text}" if text.isdigit() else text or None


def sample_in_picture(name: str) -> str | None:
    """The sample id in a picture's name, also where a tool has put something before it.

    Examples:
        >>> sample_in_picture("pictures/12.png"), sample_in_picture("/data/upload/3/0a1b2c3d-12.jpg")
        ('12', '12')
        >>> sample_in_picture("cat12.png") is None
        True
    """
    found = _PICTURE_NAME.search(name)
    return found.group(1) if found else None

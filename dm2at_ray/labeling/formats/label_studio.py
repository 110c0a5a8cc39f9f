"""Label Studio (labelstud.io): tasks to import there, a ready labeling interface, and its exports.

Structure of tasks and exports: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.sax.saxutils import quoteattr

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats import csv
from dm2at_ray.labeling.formats.base import (
    CANNOT_TELL,
    Answer,
    Sheet,
    answer_text,
    neighbors_text,
    person,
    place_text,
    sample_in_picture,
)
from dm2at_ray.labeling.tasks import Task
from dm2at_ray.store.files import Files

INDEX = "tasks.json"
INTERFACE = "interface.xml"
CONTROL = "label"
"""Name of the control in the labeling interface: results carry it."""


def write(sheet: Sheet, files: Files) -> None:
    """Write `interface.xml`, the project's labeling interface, then `tasks.json` to import."""
    files.write_bytes(INTERFACE, interface(sheet).encode())
    files.write_json(INDEX, [_task(sheet, task) for task in sheet.tasks])


def interface(sheet: Sheet) -> str:
    """The labeling interface: the image, the classes to choose from, and the neighbours if there are any."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in [*sheet.classes, CANNOT_TELL])
    near = ""
    if any(task.neighbors for task in sheet.tasks):
        near = '  <Header value="The nearest labeled images"/>\n  <Text name="near" value="$neighbors"/>\n'
        if sheet.pictures:
            near += '  <Image name="near_images" valueList="$neighbor_images"/>\n'
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="{CONTROL}" toName="image" choice="single" showInline="true" required="true">\n'
        f"{choices}\n  </Choices>\n{near}</View>\n"
    )


def read(data: bytes) -> list[Answer]:
    """The answers in an export of Label Studio: JSON, JSON-MIN or CSV.

    In the full JSON a submitted annotation is an answer, and a skipped one says CANNOT_TELL; drafts and
    predictions say nothing. Of a task's annotations, those marked as ground truth count over the others, and
    labels over skips; different labels by several people are all given, for the caller to refuse.

    Raises:
        LabelError: It is no such export.
    """
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{")):
        return csv.read(data)
    try:
        tasks = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise LabelError(f"{error}; export it from Label Studio again, as JSON") from None
    tasks = tasks if isinstance(tasks, list) else [tasks]
    try:
        return [answer for number, task in enumerate(tasks) for answer in _answers(task, number)]
    except (AttributeError, TypeError):
        raise LabelError("its entries are no tasks; export it from Label Studio again, as JSON") from None


def _task(sheet: Sheet, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {
        "data": {
            "image": sheet.picture(task.sample_id, task.uri),
            "sample_id": task.sample_id,
            "round": task.round,
            "rank": task.rank,
            "score": task.score,
            "predicted": task.predicted,
            "uri": task.uri,
            "row": task.row,
        }
    }
    if any(each.neighbors for each in sheet.tasks):
        found["data"]["neighbors"] = neighbors_text(task)
        found["data"]["neighbor_images"] = [sheet.picture(n.sample_id, n.uri) for n in task.neighbors]
    if task.predicted is not None:
        found["predictions"] = [{"model_version": f"round {task.round}", "result": _result(task.predicted)}]
    if task.answered:
        found["annotations"] = [{"result": _result(answer_text(task))}]
    return found


def _result(label: str) -> list[dict[str, Any]]:
    return [{"from_name": CONTROL, "to_name": "image", "type": "choices", "value": {"choices": [label]}}]


def _answers(task: Any, number: int) -> Iterator[Answer]:
    where = f"task {task.get('id', number)}"
    if "data" not in task and "annotations" not in task:
        yield _small_answer(task, where)
        return
    data = task.get("data") or {}
    unsaid = Answer(
        sample=_sample_id(data, task.get("file_upload")),
        label=None,
        where=where,
        place=place_text(data.get("uri"), data.get("row")),
    )
    annotations = task.get("annotations") or []
    annotations = [each for each in annotations if each.get("ground_truth")] or annotations
    submitted = [_annotated(unsaid, each) for each in annotations]
    labels = [answer for answer in submitted if answer.label != CANNOT_TELL]
    yield from labels or submitted[:1] or [unsaid]


def _annotated(unsaid: Answer, annotation: dict[str, Any]) -> Answer:
    """The answer that an annotation of a task gives."""
    by = person(annotation.get("completed_by"))
    where = f"{unsaid.where}, annotation {annotation.get('id', '?')}"
    if annotation.get("was_cancelled"):
        return replace(unsaid, label=CANNOT_TELL, where=where, by=by)
    results = [each for each in annotation.get("result") or [] if each.get("type") == "choices"]
    ours = [each for each in results if each.get("from_name") == CONTROL] or results
    chosen = [str(name) for each in ours for name in each.get("value", {}).get("choices", [])]
    # Several classes for one image are one answer that no class has.
    return replace(unsaid, label=" + ".join(chosen) or None, where=where, by=by)


def _small_answer(task: dict[str, Any], where: str) -> Answer:
    """An entry of JSON-MIN: the task's data beside the control's value."""
    chosen = task.get(CONTROL, task.get("choice"))
    if isinstance(chosen, dict):
        chosen = " + ".join(map(str, chosen.get("choices", [])))
    return Answer(
        sample=_sample_id(task, None),
        label=str(chosen or "") or None,
        where=where,
        by=person(task.get("annotator")),
        place=place_text(task.get("uri"), task.get("row")),
    )


def _sample_id(data: dict[str, Any], file_upload: str | None) -> str:
    """The sample id that the task was imported with; else that in the picture's name."""
    if "sample_id" in data:
        return str(data["sample_id"])
    names = [name for name in (file_upload, data.get("image")) if isinstance(name, str)]
    return next(filter(None, map(sample_in_picture, names)), names[0] if names else "none")

"""CVAT (cvat.ai): the format "CVAT for images 1.1", where an image's tag is its class.

Structure: https://docs.cvat.ai/docs/manual/advanced/xml_format and formats/format-cvat.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.parsers import expat

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats.base import CANNOT_TELL, Answer, Sheet, answer_text, sample_in_picture
from dm2at_ray.store.files import Files

INDEX = "annotations.xml"
LABELS = "labels.json"
LARGEST = 1 << 30
"""Bytes that an annotations.xml in a zip archive may unpack to."""


def write(sheet: Sheet, files: Files) -> None:
    """Write `labels.json` for the task's constructor, then `annotations.xml` to upload to the task.

    The model's predictions are not in it: an uploaded tag is an annotation, and would come back as a label.
    """
    files.write_json(
        LABELS, [{"name": name, "type": "tag", "attributes": []} for name in [*sheet.classes, CANNOT_TELL]]
    )
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    for name, text in (
        ("name", f"round {sheet.round}"),
        ("size", str(len(sheet.tasks))),
        ("mode", "annotation"),
    ):
        ElementTree.SubElement(task, name).text = text
    labels = ElementTree.SubElement(task, "labels")
    for name in [*sheet.classes, CANNOT_TELL]:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "type").text = "tag"
        ElementTree.SubElement(label, "attributes")
    # CVAT numbers the images of a task in the order of their names, and matches by name first.
    named = sorted((sheet.pictures[task.sample_id].name.rsplit("/", 1)[-1], task) for task in sheet.tasks)
    for number, (name, task_) in enumerate(named):
        picture = sheet.pictures[task_.sample_id]
        size = {"width": str(picture.width), "height": str(picture.height)}
        image = ElementTree.SubElement(root, "image", {"id": str(number), "name": name, **size})
        if task_.answered:
            tag = {"label": answer_text(task_), "source": "manual"}
            ElementTree.SubElement(image, "tag", tag)
    ElementTree.indent(root)
    files.write_bytes(INDEX, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def read(data: bytes) -> list[Answer]:
    """The images' tags in an annotations.xml, or in a zip archive that holds one, as CVAT exports it.

    An image with several tags gives several answers; boxes and other shapes mean nothing here.

    Raises:
        LabelError: It is no such file.
    """
    if not data.startswith(b"PK"):
        return _read_xml(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [i for i in archive.infolist() if i.filename.rsplit("/", 1)[-1] == INDEX]
            if len(infos) != 1:
                raise LabelError(f"the archive holds {len(infos)} {INDEX}; export it as CVAT for images 1.1")
            if infos[0].file_size > LARGEST:
                raise LabelError(
                    f"its {INDEX} unpacks to more than {LARGEST:,} bytes; give the XML file itself"
                )
            return _read_xml(archive.read(infos[0]))
    except zipfile.BadZipFile as error:
        raise LabelError(f"{error}; export it again, as CVAT for images 1.1") from None


def _read_xml(data: bytes) -> list[Answer]:
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise LabelError(f"{error}; export it again, as CVAT for images 1.1") from None
    return list(reader.answers())


class _Reader:
    """Gathers the images and their tags, with the lines they are on; refuses entities, which may explode."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._depth = 0
        self._images: list[tuple[str, int, list[tuple[str, int]]]] = []
        self._in_image = False

    def answers(self) -> Iterator[Answer]:
        for name, line, tags in self._images:
            sample = sample_in_picture(name) or name
            if not tags:
                yield Answer(sample, None, f"line {line}")
            for label, tag_line in tags:
                yield Answer(sample, label, f"line {tag_line}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._depth == 0 and name != "annotations":
            raise LabelError(f"its root is <{name}>, not <annotations>; export it as CVAT for images 1.1")
        if self._depth == 1 and name == "track":
            raise LabelError("it holds tracks; export it as CVAT for images 1.1, not for video")
        line = self.parser.CurrentLineNumber
        if self._depth == 1 and name == "image":
            self._images.append((attributes.get("name", ""), line, []))
            self._in_image = True
        elif self._depth == 2 and name == "tag" and self._in_image:
            self._images[-1][2].append((attributes.get("label", ""), line))
        self._depth += 1

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            self._in_image = False

    def _refuse(self, *_: object) -> None:
        raise LabelError("it declares a document type, which CVAT does not; export it again")

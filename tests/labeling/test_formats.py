"""Every format out and back; what tools make of it, and what people do to files."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dm2at_ray.errors import LabelError
from dm2at_ray.labeling.formats import CANNOT_TELL, FORMATS, Answer, Picture, Sheet, detect
from dm2at_ray.labeling.tasks import Neighbor, Task
from dm2at_ray.store.files import Files

EXPORTS = Path(__file__).parent / "label_studio"
"""What Label Studio 1.23.2 exported of a project made of `interface.xml` and `tasks.json` for the run of
`asked_run.py`: user 1 labeled task 1, skipped task 2, skipped task 3 which user 2 labeled, labeled task 4
(six, then five) and began to change it again, began task 5, and chose `cannot tell` in task 6. In `conflict`
user 2 has labeled task 1 too; `uploads` are pictures that were uploaded by hand."""

NAMES = ["cat", 'a "b", c', "<d> & é"]
NEAR = (Neighbor(2, 0.25, "cat", "pool/2.jpg", 0),)
TASKS = [
    Task(7, 3, 0, 0.5, "pool/7.jpg", 0, "cat", NEAR, False, None),
    Task(30, 3, 1, 0.25, "pool/30.jpg", 4, None, (), True, 'a "b", c'),
    Task(4, 3, 2, 0.125, "pool/4.jpg", 0, "cat", NEAR, True, None),
    Task(5, 3, 3, 0.125, "pool/5.jpg", 0, "cat", NEAR, True, "<d> & é"),
]
PICTURES = {
    sample: Picture(f"{folder}/{sample}.jpg", 12, 9)
    for sample, folder in ((7, "pictures"), (30, "pictures"), (4, "pictures"), (5, "pictures"), (2, "near"))
}
SHEET = Sheet(3, TASKS, PICTURES, NAMES, "/files/")


def said(answers: list[Answer]) -> list[tuple[str, str | None]]:
    return [(answer.sample, answer.label) for answer in answers]


@pytest.mark.parametrize("name", FORMATS)
def test_format__what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    form.write(SHEET, Files.at(str(tmp_path)))
    data = (tmp_path / form.INDEX).read_bytes()
    assert detect(data) == name
    expected = [("7", None), ("30", 'a "b", c'), ("4", CANNOT_TELL), ("5", "<d> & é")]
    assert sorted(said(form.read(data))) == sorted(expected)


@pytest.mark.parametrize("name", FORMATS)
def test_format__of_no_queries(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    form.write(Sheet(3, [], {}, NAMES), Files.at(str(tmp_path)))
    assert form.read((tmp_path / form.INDEX).read_bytes()) == []


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff\xfe",
        b"[1, 2",
        b"[1]",
        b'[{"data": 3, "annotations": [4]}]',
        b"<annotations",
        b"PK\x03\x04",
        b"PAR1",
    ],
)
def test_format__refuses_what_is_damaged(name: str, data: bytes) -> None:
    with pytest.raises(LabelError) as refused:
        FORMATS[name].read(data)
    assert "\n" not in str(refused.value)


def test_detect__refuses_what_is_of_none() -> None:
    with pytest.raises(LabelError, match="neither CSV with a column sample_id"):
        detect(b"name,age\nann,3\n")


def test_csv__tells_what_helps(tmp_path: Path) -> None:
    FORMATS["csv"].write(SHEET, Files.at(str(tmp_path)))
    lines = (tmp_path / "queries.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "sample_id,label,predicted,score,rank,round,picture,uri,row,neighbors"
    assert lines[1] == "7,,cat,0.5,0,3,/files/pictures/7.jpg,pool/7.jpg,0,cat (sample 2 at 0.25)"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv__as_spreadsheets_save_it(delimiter: str) -> None:
    text = "\ufeffsample_id,note,label\r\n7,,cat \r\n\r\n8,,\r\n9,,dog\r\n".replace(",", delimiter)
    answers = FORMATS["csv"].read(text.encode())
    assert said(answers) == [("7", "cat"), ("8", None), ("9", "dog")]
    assert [answer.where for answer in answers] == ["line 2", "line 4", "line 5"]


def test_csv__refuses_another_encoding_and_missing_columns() -> None:
    with pytest.raises(LabelError, match=r"not UTF-8 \(byte 19\); save it as CSV UTF-8"):
        FORMATS["csv"].read("sample_id,label\n1,k\xe4fer\n".encode("latin-1"))
    with pytest.raises(LabelError, match="its columns are sample_id, lable; sample_id and label must be"):
        FORMATS["csv"].read(b"sample_id,lable\n1,cat\n")


def test_parquet__from_a_script() -> None:
    sink = io.BytesIO()
    table = {"sample_id": ["7", "8"], "label": pa.array(["cat", None]).dictionary_encode()}
    pq.write_table(pa.table(table), sink)
    assert FORMATS["parquet"].read(sink.getvalue()) == [
        Answer("7", "cat", "row 0"),
        Answer("8", None, "row 1"),
    ]
    sink = io.BytesIO()
    pq.write_table(pa.table({"sample_id": [7], "label": [3]}), sink)
    assert said(FORMATS["parquet"].read(sink.getvalue())) == [("7", "3")], "a class may be named 3"
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [7]}), sink)
    with pytest.raises(LabelError, match="its columns are id; label and sample_id must be among them"):
        FORMATS["parquet"].read(sink.getvalue())


def test_label_studio__tasks_and_interface(tmp_path: Path) -> None:
    FORMATS["label-studio"].write(SHEET, Files.at(str(tmp_path)))
    view = ElementTree.parse(tmp_path / "interface.xml").getroot()
    assert [choice.get("value") for choice in view.iter("Choice")] == [*NAMES, CANNOT_TELL]
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    shown = set(re.findall(r'"\$(\w+)"', (tmp_path / "interface.xml").read_text(encoding="utf-8")))
    assert shown == {"image", "neighbors", "neighbor_images"}
    assert all(shown <= set(task["data"]) for task in tasks), "the tool refuses tasks that lack one"
    data = tasks[0]["data"]
    assert (data["sample_id"], data["image"]) == (7, "/files/pictures/7.jpg")
    assert data["neighbor_images"] == ["/files/near/2.jpg"]
    control, image = view.find("Choices"), view.find("Image")
    assert control is not None
    assert image is not None
    predicted = tasks[0]["predictions"][0]["result"][0]
    assert (predicted["from_name"], predicted["to_name"]) == (control.get("name"), image.get("name"))
    assert predicted["value"] == {"choices": ["cat"]}
    assert ["predictions" in task for task in tasks] == [True, False, True, True]
    assert ["annotations" in task for task in tasks] == [False, True, True, True]


def test_label_studio__without_neighbors_or_pictures(tmp_path: Path) -> None:
    tasks = [Task(7, 3, 0, 0.5, "s3://pool/7.jpg", 0, "cat", (), False, None)]
    FORMATS["label-studio"].write(Sheet(3, tasks, {}, NAMES), Files.at(str(tmp_path)))
    (task,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert task["data"]["image"] == "s3://pool/7.jpg"
    assert "neighbor" not in (tmp_path / "interface.xml").read_text(encoding="utf-8")


LABELED = [("1300", "one"), ("41", "zero"), ("1024", "five")]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("export.json", [*LABELED, ("5", CANNOT_TELL), ("0", None), ("600", CANNOT_TELL)]),
        ("export_min.json", [*LABELED, ("0", None), ("600", CANNOT_TELL)]),
        ("export.csv", [*LABELED, ("0", None), ("600", CANNOT_TELL)]),
        ("conflict.json", [*LABELED, ("1300", "nine"), ("5", CANNOT_TELL), ("600", CANNOT_TELL)]),
        ("conflict.csv", [*LABELED, ("1300", "nine"), ("600", CANNOT_TELL)]),
        ("uploads.json", [("1300", "two"), ("5", "two")]),
        ("uploads_min.json", [("1300", "two"), ("5", "two")]),
        ("uploads.csv", [("1300", "two"), ("5", "two")]),
    ],
)
def test_label_studio__its_own_exports(file: str, expected: list[tuple[str, str | None]]) -> None:
    data = (EXPORTS / file).read_bytes()
    answers = FORMATS[detect(data)].read(data)
    assert sorted(said(answers), key=str) == sorted(expected, key=str)
    assert sorted(said(FORMATS["label-studio"].read(data)), key=str) == sorted(expected, key=str)
    by = {answer.sample: answer.by for answer in answers}
    assert by["1300"] in ("user 1", "user 2")
    assert by.get("41", "user 2") == "user 2", "who labeled it, not who skipped it"


def annotated(*annotations: dict[str, object]) -> list[Answer]:
    return FORMATS["label-studio"].read(
        json.dumps([{"id": 1, "data": {"sample_id": 7}, "annotations": annotations}]).encode()
    )


def chosen(*names: str, control: str = "label", **more: object) -> dict[str, object]:
    result = [{"type": "choices", "from_name": control, "value": {"choices": list(names)}}]
    return {"id": 5, "result": result, "completed_by": {"id": 3, "email": "ann@example.org"}, **more}


def test_label_studio__ground_truth_counts_over_others() -> None:
    answers = annotated(chosen("cat"), chosen("dog", ground_truth=True), chosen("cow"))
    assert said(answers) == [("7", "dog")]
    assert answers[0].by == "ann@example.org"


def test_label_studio__several_classes_at_once_are_none_that_there_is() -> None:
    assert said(annotated(chosen("cat", "dog"))) == [("7", "cat + dog")]


def test_label_studio__a_submission_without_a_choice_is_open() -> None:
    assert said(annotated({"id": 5, "result": []})) == [("7", None)]


def test_label_studio__skipped_by_two() -> None:
    skipped = {"id": 5, "result": [], "was_cancelled": True}
    assert said(annotated(skipped, skipped)) == [("7", CANNOT_TELL)]


def test_label_studio__other_controls_do_not_matter_unless_alone() -> None:
    both = chosen("cat")
    both["result"] = [*chosen("blurred", control="quality")["result"], *both["result"]]  # type: ignore[misc]
    assert said(annotated(both)) == [("7", "cat")]
    assert said(annotated(chosen("cat", control="animal"))) == [("7", "cat")]


CVAT_TASK = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>12</id>
      <name>round 1</name>
      <size>5</size>
      <mode>annotation</mode>
      <overlap>0</overlap>
      <bugtracker></bugtracker>
      <flipped>False</flipped>
      <created>2025-11-03 12:00:00.000000+00:00</created>
      <labels>
        <label><name>cat</name><color>#2080c0</color><type>tag</type><attributes></attributes></label>
      </labels>
      <owner><username>ann</username><email>ann@example.org</email></owner>
    </task>
    <dumped>2025-11-03 13:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="30.png" width="8" height="8">
    <tag label="cat" source="manual">
      <attribute name="sure">yes</attribute>
    </tag>
  </image>
  <image id="1" name="41.png" subset="default" task_id="12" width="8" height="8">
  </image>
  <image id="2" name="round-1/5.jpg" width="8" height="8">
    <box label="cat" source="manual" occluded="0" xtl="1.0" ytl="1.0" xbr="3.0" ybr="3.0" z_order="0"></box>
    <tag label="cannot tell" source="manual"></tag>
  </image>
  <image id="3" name="600.png" width="8" height="8">
    <tag label="cat" source="manual"></tag>
    <tag label="dog" source="manual"></tag>
  </image>
  <image id="4" name="holiday.png" width="8" height="8">
    <tag label="cat" source="manual"></tag>
  </image>
</annotations>
"""


def test_cvat__a_task_as_it_is_exported() -> None:
    answers = FORMATS["cvat"].read(CVAT_TASK.encode())
    assert said(answers) == [
        ("30", "cat"),
        ("41", None),
        ("5", CANNOT_TELL),
        ("600", "cat"),
        ("600", "dog"),
        ("holiday.png", "cat"),
    ]
    first_tag = CVAT_TASK.splitlines().index('    <tag label="cat" source="manual">')
    assert answers[0].where == f"line {first_tag + 1}"


def test_cvat__in_its_archive() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("annotations.xml", CVAT_TASK)
        archive.writestr("images/30.png", b"")
    assert detect(packed.getvalue()) == "cvat"
    assert len(FORMATS["cvat"].read(packed.getvalue())) == 6
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("images/30.png", b"")
    with pytest.raises(LabelError, match=r"holds 0 annotations\.xml"):
        FORMATS["cvat"].read(packed.getvalue())


def test_cvat__refuses_entities_and_videos() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa">]><annotations>&a;</annotations>'
    with pytest.raises(LabelError, match="document type"):
        FORMATS["cvat"].read(bomb.encode())
    with pytest.raises(LabelError, match="not for video"):
        FORMATS["cvat"].read(b"<annotations><track/></annotations>")
    with pytest.raises(LabelError, match="its root is <html>"):
        FORMATS["cvat"].read(b"<html/>")


def test_cvat__images_in_the_order_in_which_cvat_numbers_them(tmp_path: Path) -> None:
    FORMATS["cvat"].write(SHEET, Files.at(str(tmp_path)))
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    images = [(e.get("id"), e.get("name"), e.get("width"), e.get("height")) for e in root.iter("image")]
    names = ["30.jpg", "4.jpg", "5.jpg", "7.jpg"]
    assert images == [(str(number), name, "12", "9") for number, name in enumerate(names)]
    assert {name.text for name in root.iterfind("meta/task/labels/label/name")} == {*NAMES, CANNOT_TELL}
    labels = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert [label["name"] for label in labels] == [*NAMES, CANNOT_TELL]

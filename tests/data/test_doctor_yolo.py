"""What the doctor tells of YOLO's files: every fault, each with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.data.findings import Finding
from mask2former.data.yolo import FORMAT

SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
OTHER = "1 0.6 0.6 0.9 0.6 0.9 0.9"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound data set. Images are not decoded, so that they may be empty files."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            put(tmp_path, split, name, f"{SQUARE}\n{OTHER}\n")
    put(tmp_path, "train", "background", None)
    write_yaml(tmp_path)
    return tmp_path


def put(folder: Path, split: str, name: str, lines: str | None) -> None:
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True, exist_ok=True)
    (folder / "images" / split / f"{name}.jpg").write_bytes(b"")
    if lines is not None:
        (folder / "labels" / split / f"{name}.txt").write_text(lines)


def write_yaml(folder: Path, more: str = "", names: str = "[cow, dog]", train: str = "") -> None:
    text = f"train: {train or 'images/train'}\nval: images/val\nnames: {names}\n{more}"
    (folder / "data.yaml").write_text(text)


def faults(folder: Path, split: str = "train") -> list[Finding]:
    assert FORMAT.faults is not None
    return list(FORMAT.faults(folder, split))


def told(findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    return [(f.severity, f.kind, Path(f.file).name, f.record) for f in findings]


def test_a_sound_data_set_has_none(folder: Path) -> None:
    assert faults(folder) == []
    assert faults(folder, "val") == []


def test_a_split_that_is_not_there_is_told_once(folder: Path) -> None:
    write_yaml(folder, "test: ../test/images\n")
    (finding,) = faults(folder)
    assert told([finding]) == [("warning", "missing split", "data.yaml", "")]
    assert "'test' is '../test/images', which does not exist" in finding.message
    assert faults(folder, "val") == []


def test_nc_unlike_the_names(folder: Path) -> None:
    write_yaml(folder, "nc: 2\n")
    assert faults(folder) == []
    write_yaml(folder, "nc: 3\n")
    (finding,) = faults(folder)
    assert told([finding]) == [("warning", "class count unlike names", "data.yaml", "")]
    assert "'nc' is 3, but 2 'names'" in finding.message


def test_names_that_are_alike(folder: Path) -> None:
    write_yaml(folder, names="[cow, dog, 'Cow ', dog]")
    findings = faults(folder)
    assert told(findings) == [
        ("warning", "class names alike", "data.yaml", "class 2"),
        ("warning", "class name twice", "data.yaml", "class 3"),
    ]
    assert "'Cow '" in findings[0].message
    assert "'cow'" in findings[0].message


def test_every_line_at_fault(folder: Path) -> None:
    lines = [SQUARE, "cow 0 0 1 1 0 1", "5 0 0 1 0 1 1", "0 0 0 1 0 1", "0 30 0 40 0 40 50"]
    put(folder, "train", "a", "\n".join(lines))
    put(folder, "train", "b", f"{SQUARE}\n0 nan 0 1 0 1 1")
    assert told(faults(folder)) == [
        ("error", "malformed mask", "a.txt", "line 2"),
        ("error", "unknown category", "a.txt", "line 3"),
        ("error", "malformed mask", "a.txt", "line 4"),
        ("error", "malformed mask", "a.txt", "line 5"),
        ("error", "malformed mask", "b.txt", "line 2"),
    ]


def test_a_file_that_is_no_text(folder: Path) -> None:
    (folder / "labels" / "train" / "a.txt").write_bytes(SQUARE.encode("utf-16"))
    (finding,) = faults(folder)
    assert told([finding]) == [("error", "cannot be opened", "a.txt", "")]
    assert finding.message.startswith("is no text of UTF-8")


def test_objects_that_stand_twice(folder: Path) -> None:
    other_class = "1" + SQUARE[1:]
    put(folder, "train", "a", f"{SQUARE}\n{OTHER}\n{other_class}\n{OTHER}\n{OTHER}\n")
    findings = faults(folder)
    assert told(findings) == [
        ("warning", "object annotated twice", "a.txt", "line 4"),
        ("warning", "object annotated twice", "a.txt", "line 5"),
    ]
    assert "line 2" in findings[0].message


def test_outside_of_the_frame(folder: Path) -> None:
    entirely = "0 1.05 0.1 1.2 0.1 1.2 0.5"
    partly, rounded = "0 -0.02 0.1 0.5 0.1 0.5 0.4", "1 -0.005 0.1 0.5 0.1 0.5 0.4"
    put(folder, "train", "a", f"{entirely}\n{partly}\n{rounded}")
    findings = faults(folder)
    assert told(findings) == [
        ("error", "mask outside the frame", "a.txt", "line 1"),
        ("warning", "mask outside of the image", "a.txt", "line 2"),
    ]
    assert "2 % of a side" in findings[1].message


def test_what_is_no_mask(folder: Path) -> None:
    put(folder, "train", "a", f"{SQUARE}\n0 0.5 0.5 0.2 0.2\n0 0.5 0.5\n")
    assert told(faults(folder)) == [
        ("warning", "box without a mask", "a.txt", "line 2"),
        ("warning", "mask without a pixel", "a.txt", "line 3"),
    ]
    for name in ("a", "b"):
        put(folder, "train", name, "0 0.5 0.5 0.2 0.2\n")
    assert told(faults(folder)) == [
        ("error", "box without a mask", "a.txt", "line 1"),
        ("error", "box without a mask", "b.txt", "line 1"),
    ]


def test_labels_without_an_image(folder: Path) -> None:
    labels = folder / "labels" / "train"
    (labels / "ghost.txt").write_text(SQUARE)
    (labels / "classes.txt").write_text("cow\ndog\n")
    (labels / "notes.txt").write_bytes(b"caf\xe9")
    (labels / "numbers.txt").write_text("0\n1\n")
    (finding,) = faults(folder)
    assert told([finding]) == [("warning", "annotation without image", "ghost.txt", "")]
    assert str(folder / "images" / "train") in finding.message


def test_lists_that_name_too_much(folder: Path) -> None:
    names = ("a", "a", "gone")  # b is of another split
    lines = "".join(f"images/train/{name}.jpg\n" for name in names)
    (folder / "list.txt").write_text(lines)
    (folder / "labels" / "train" / "gone.txt").write_text(SQUARE)
    write_yaml(folder, train="list.txt")
    findings = faults(folder)
    assert told(findings) == [
        ("warning", "file named twice", "data.yaml", "a.jpg"),
        ("error", "missing file", "data.yaml", "gone.jpg"),
    ]
    assert str(folder / "images" / "train" / "gone.jpg") in findings[1].message


def test_labels_that_lie_elsewhere(folder: Path) -> None:
    (folder / "labels" / "train").rename(folder / "labels" / "trian")
    (finding,) = faults(folder)
    assert told([finding]) == [("error", "split without annotation", "data.yaml", "train")]
    assert str(folder / "labels" / "train" / "a.txt") in finding.message


def test_what_cannot_be_opened_is_left_to_the_reader(folder: Path) -> None:
    write_yaml(folder, train="[images/train, images/more]")
    assert faults(folder) == []
    write_yaml(folder, names="{1: cow}")
    assert faults(folder) == []

"""Class files of people and tools, each in its own way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mask2former.data.class_files import CLASS_FILES, read_classes
from mask2former.data.map_classes import code_of
from mask2former.data.pixel_maps import PixelMap

RED, BLUE = (200, 0, 0), (0, 0, 200)

# Each names road (0) and car (1); with the colours red and blue if it is a file of colours.
SAME = {
    "classes.txt": "road\ncar\n\n",
    "labels.txt": "\ufeffroad\r\ncar\r\n",
    "codes.txt": "road\ncar",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:200,0,0::\ncar:0,0,200::\n",
    "label_colors.txt": "200 0 0\troad\n0 0 200\t\tcar\n",
    "class_dict.csv": "name,r,g,b\nroad,200,0,0\ncar, 0, 0, 200\n",
    "_classes.csv": "Pixel Value, Class\n0, road\n1, car\n",
    "classes.json": '["road", "car"]',
    "classes.yaml": "- road\n- car\n",
    "classes.yml": "names:\n  0: road\n  1: car\n",
}
IN_JSON = {
    "value to name": '{"0": "road", "1": "car"}',
    "name to value": '{"road": 0, "car": 1}',
    "name to color": '{"road": [200, 0, 0], "car": [0, 0, 200]}',
    "name to web color": '{"road": "#c80000", "car": "#0000C8"}',
    "entries": '[{"id": 1, "name": "car", "isthing": 1}, {"id": 0, "name": "road"}]',
    "entries by id": '{"1": {"name": "car", "is_thing": true}, "0": {"name": "road"}}',
    "entries by name": '{"road": {"id": 0}, "car": {"id": 1, "color": [0, 0, 200]}}',
    "wrapped": '{"classes": [{"name": "road"}, {"name": "car"}], "ignore": [7, 9]}',
    "with void": '[{"id": 0, "name": "road"}, {"id": 1, "name": "car"}, {"id": 9, "name": "void"}]',
    "ignored": '[{"name": "road"}, {"name": "car"}, {"name": "rest", "ignore": true}]',
}


def test_every_known_name_is_tried() -> None:
    assert set(SAME) == set(CLASS_FILES)


@pytest.mark.parametrize("name", SAME)
def test_files_that_say_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SAME[name].encode())
    classes = read_classes(tmp_path / name)
    assert [c.name for c in classes.categories] == ["road", "car"]
    assert (classes.values, [c.id for c in classes.categories]) == ((0, 1), [0, 1])
    assert not any(c.is_thing for c in classes.categories)
    by_place = name not in ("_classes.csv", "classes.yml")
    assert classes.ignore == ({2, 255, 65535} if by_place else {255, 65535})
    assert classes.has_colors == ("200" in SAME[name])
    if classes.has_colors:
        assert [c.color for c in classes.categories] == [RED, BLUE]


@pytest.mark.parametrize("form", IN_JSON)
def test_forms_of_json(tmp_path: Path, form: str) -> None:
    (tmp_path / "classes.json").write_text(IN_JSON[form])
    classes = read_classes(tmp_path / "classes.json")
    found = dict(zip(classes.values, classes.categories, strict=True))
    assert {value: category.name for value, category in found.items()} == {0: "road", 1: "car"}
    ignored = {"wrapped": {7, 9}, "with void": {9, 255, 65535}, "ignored": {2, 255, 65535}}
    by_place = {"name to color": {2, 255, 65535}, "name to web color": {2, 255, 65535}}
    assert classes.ignore == (ignored | by_place).get(form, {255, 65535})
    assert found[1].is_thing == (form in ("entries", "entries by id"))
    assert classes.has_colors == (form in ("name to color", "name to web color"))
    if classes.has_colors:
        assert [found[value].color for value in (0, 1)] == [RED, BLUE]


def test_void_by_its_name_and_color(tmp_path: Path) -> None:
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,200,0,0\nVoid,0,0,0\ncar,0,0,200\n")
    classes = read_classes(tmp_path / "class_dict.csv")
    assert [c.name for c in classes.categories] == ["road", "car"]
    assert (classes.values, classes.ignore) == ((0, 2), {1, 255, 65535})
    assert code_of((0, 0, 0)) in classes.ignore_colors
    (tmp_path / "classes.json").write_text('[{"name": "void", "ignore": false}, "road"]')
    kept = read_classes(tmp_path / "classes.json")
    assert [c.name for c in kept.categories] == ["void", "road"]


def test_a_list_to_ignore_adds_to_what_the_entries_say(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text('{"classes": ["road", "car", "rest"], "ignore": [2, 9]}')
    classes = read_classes(file)
    assert [c.name for c in classes.categories] == ["road", "car"]
    assert (classes.values, classes.ignore) == ((0, 1), {2, 9})
    file.write_text(
        '{"classes": ["void", "road", {"name": "rest", "ignore": true}, "car"], "ignore": 9}'
    )
    classes = read_classes(file)
    assert [c.name for c in classes.categories] == ["road", "car"]
    assert (classes.values, classes.ignore) == ((1, 3), {0, 2, 9})


@pytest.mark.parametrize("foreground", [1, 255])
def test_a_lone_class_is_not_taken_for_the_background(tmp_path: Path, foreground: int) -> None:
    pixels = PixelMap(values=np.array([[0, 0, foreground]], np.uint8), is_color=False)
    file = tmp_path / "classes.txt"
    file.write_text("fg\n")
    with pytest.raises(ValueError, match="name the background, too") as caught:
        read_classes(file).labels(pixels, tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value)
    blank = PixelMap(values=np.zeros((1, 3), np.uint8), is_color=False)
    assert read_classes(file).labels(blank, tmp_path / "b.png").tolist() == [[0, 0, 0]]
    file = tmp_path / "classes.json"
    file.write_text(f'["fg", {{"id": {foreground}, "name": "void"}}]')
    assert read_classes(file).labels(pixels, tmp_path / "a.png").tolist() == [[0, 0, -1]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "\n", "names no class"),
        ("classes.txt", "road\n\ncar", "line 2 is blank"),
        ("classes.txt", "road\nroad", "two classes are called 'road'"),
        ("classes.txt", b"caf\xe9", "is no text of UTF-8"),
        ("label_colors.txt", "1 2 3 a\n1 2 3 b", r"two classes have the color \[1, 2, 3\]"),
        ("label_colors.txt", "1 2 300 a", "a color is red, green, blue, 0..255"),
        ("labelmap.txt", "road:1,2::", "a color is red, green, blue"),
        ("class_dict.csv", "name,r,g,b\nroad,red", "line 'road,red' is neither name,r,g,b"),
        ("classes.json", "{", r"classes\.json: cannot be understood"),
        ("classes.yaml", "a: [", r"classes\.yaml: cannot be understood"),
        ("classes.json", "7", "must be a list of class names"),
        ("classes.json", '["road", 7]', "entry 1: must be a name, or have a 'name', not 7"),
        ("classes.json", '[{"id": "x", "name": "a"}]', "'id' must be a whole number, not 'x'"),
        ("classes.json", '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "1 stands for two"),
        ("classes.json", '{"a": null}', "entry 'a': None is no class; write id: name"),
        ("classes.json", '{"classes": ["a"], "ignore": "b"}', "'ignore' must be a value"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=message) as caught:
        read_classes(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)

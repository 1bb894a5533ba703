"""The files in which people and tools write down the classes of their masks."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from mask2former.archive import AnyPath, read_text
from mask2former.data.dataset import generated_color, web_color
from mask2former.data.map_classes import IGNORED, Color, MapClasses, code_of
from mask2former.structures import Category

CLASS_FILES = (
    *("classes.json", "classes.yaml", "classes.yml", "labelmap.txt", "label_colors.txt"),
    *("class_dict.csv", "_classes.csv", "classes.txt", "labels.txt", "codes.txt"),
)

_VOC_OUTLINE = (224, 224, 192)  # PASCAL VOC's colour of 255, which colour maps have in its place
_VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    name: str
    value: int | None = None  # its place in the file if None
    color: Color | None = None
    is_thing: bool = False
    ignore: bool | None = None  # None: as the name says


def read_classes(path: AnyPath) -> MapClasses:
    """Read one of `CLASS_FILES`. ValueError names the file, the line or entry, and the cure."""
    text = read_text(path)
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        entries, ignore = _structured(text, path)
    elif path.name == "labelmap.txt":
        entries, ignore = _cvat(text, path), None
    elif path.suffix.lower() == ".csv":
        entries, ignore = _table(text, path), None
    else:
        entries, ignore = _lines(text, path), None
    return _classes(entries, ignore, path)


def _classes(entries: list[_Entry], ignore: list[int] | None, path: AnyPath) -> MapClasses:
    if not entries:
        raise ValueError(f"{path}: names no class; write the name of one in each line")
    categories: list[Category] = []
    has_colors = True
    values: list[int] = []
    ignored: set[int] = set()
    ignored_colors = {code_of(_VOC_OUTLINE)}
    for place, entry in enumerate(entries):
        value = place if entry.value is None else entry.value
        is_void = entry.name.lower() in _VOID_NAMES if entry.ignore is None else entry.ignore
        if is_void or value in (ignore or ()):
            ignored.add(value)
            if entry.color is not None:
                ignored_colors.add(code_of(entry.color))
            continue
        if value in values:
            raise ValueError(f"{path}: {value} stands for two classes; give each its own id")
        values.append(value)
        has_colors &= entry.color is not None
        color = entry.color or generated_color(len(categories))
        categories.append(Category(id=value, name=entry.name, is_thing=entry.is_thing, color=color))
    names, colors = [c.name for c in categories], [c.color for c in categories]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: two classes are called {name!r}; rename one of them")
    if has_colors and len(set(colors)) < len(colors):
        twice = next(color for color in colors if colors.count(color) > 1)
        raise ValueError(f"{path}: two classes have the color {list(twice)}; change one of them")
    if ignore is not None:
        ignored |= {*ignore}
    elif ignored or values != [0]:  # a lone class may be the foreground: then 0 is another's
        if not ignored and all(entry.value is None for entry in entries):
            ignored.add(len(entries))  # what many tools number the unlabelled, after the last class
        ignored |= set(IGNORED) - set(values)
    return MapClasses(
        source=str(path),
        categories=tuple(categories),
        values=tuple(values),
        ignore=frozenset(ignored),
        has_colors=has_colors,
        ignore_colors=frozenset(ignored_colors) - {code_of(color) for color in colors},
    )


def _lines(text: str, path: AnyPath) -> list[_Entry]:
    """A name a line; with a colour before or after it in some (64 128 64 Animal)."""
    entries: list[_Entry] = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        if not line.strip():
            raise ValueError(
                f"{path}: line {number} is blank; every line is a class, in the order of the values"
            )
        before = re.fullmatch(r"\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]+(\S.*?)\s*", line)
        after = re.fullmatch(r"\s*(\S.*?)[\s,:]+(\d+)[\s,]+(\d+)[\s,]+(\d+)\s*", line)
        if before:
            entries.append(_Entry(name=before[4], color=_color(before.groups()[:3], line, path)))
        elif after:
            entries.append(_Entry(name=after[1], color=_color(after.groups()[1:], line, path)))
        else:
            entries.append(_Entry(name=line.strip()))
    return entries


def _cvat(text: str, path: AnyPath) -> list[_Entry]:
    """CVAT's labelmap.txt: label:color_rgb:parts:actions."""
    entries: list[_Entry] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        color = rest.partition(":")[0]
        given = _color(color.split(","), line, path) if color.strip() else None
        entries.append(_Entry(name=name.strip(), color=given))
    return entries


def _table(text: str, path: AnyPath) -> list[_Entry]:
    """class_dict.csv (name,r,g,b) or Roboflow's _classes.csv (Pixel Value, Class)."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    entries: list[_Entry] = []
    for row in rows:
        if len(row) >= 4 and all(cell.isdigit() for cell in row[1:4]):
            entries.append(_Entry(name=row[0], color=_color(row[1:4], ",".join(row), path)))
        elif len(row) == 2 and row[0].isdigit():
            entries.append(_Entry(value=int(row[0]), name=row[1]))
        elif row is not rows[0]:  # not the header
            raise ValueError(
                f"{path}: line {','.join(row)!r} is neither name,r,g,b nor value,name; correct it"
            )
    return entries


def _structured(text: str, path: AnyPath) -> tuple[list[_Entry], list[int] | None]:
    """A list of names or of entries, or a map from id to name; the values to ignore, if it says."""
    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be understood ({error}); correct it") from None
    ignore: list[int] | None = None
    if isinstance(content, dict):
        if "ignore" in content:
            given = content["ignore"]
            ignore = given if isinstance(given, list) else [given]
            if not all(isinstance(value, int) for value in ignore):
                raise ValueError(f"{path}: 'ignore' must be a value or a list of them, not {given}")
        for key in ("classes", "names", "labels", "categories"):
            if isinstance(content.get(key), list | dict):
                content = content[key]
                break
        else:
            content = {key: value for key, value in content.items() if key != "ignore"}
    if isinstance(content, dict):
        return [_mapped(key, value, path) for key, value in content.items()], ignore
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: must be a list of class names, a map from value to name, or a list of"
            ' {"id": ..., "name": ...}'
        )
    return [_listed(entry, place, path) for place, entry in enumerate(content)], ignore


def _mapped(key: object, value: object, path: AnyPath) -> _Entry:
    """An entry of a map: value to name, name to value, or either to an entry."""
    if isinstance(value, dict):
        is_value = str(key).isdigit()
        entry = {"id": int(str(key))} if is_value else {"name": str(key)}
        return _listed({**entry, **value}, key, path)
    if str(key).isdigit() and isinstance(value, str):
        return _Entry(name=value, value=int(str(key)))
    if isinstance(value, int):
        return _Entry(name=str(key), value=value)
    if isinstance(value, list) or str(value).startswith("#"):
        return _Entry(name=str(key), color=_color(value, key, path))
    raise ValueError(f"{path}: entry {key!r}: {value!r} is no class; write id: name")


def _listed(entry: Any, place: object, path: AnyPath) -> _Entry:
    if isinstance(entry, str):
        return _Entry(name=entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(
            f"{path}: entry {place!r}: must be a name, or have a 'name', not {str(entry)[:60]}"
        )
    value, color = entry.get("id"), entry.get("color")
    if value is not None and not isinstance(value, int):
        raise ValueError(f"{path}: entry {place!r}: 'id' must be a whole number, not {value!r}")
    return _Entry(
        name=entry["name"],
        value=value,
        color=None if color is None else _color(color, place, path),
        is_thing=bool(entry.get("is_thing", entry.get("isthing", False))),
        ignore=bool(entry["ignore"]) if "ignore" in entry else None,
    )


def _color(given: Any, where: object, path: AnyPath) -> Color:
    try:
        red, green, blue = web_color(given) or (int(part) for part in given)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"{path}: {where!r}: a color is red, green, blue, 0..255, not {given!r}")
    return red, green, blue

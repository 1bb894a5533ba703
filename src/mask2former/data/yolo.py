"""YOLO's segmentation format: a text file an image, a line of normalised corners an object."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_json import raise_problems
from mask2former.data.dataset import generated_color
from mask2former.data.format import Format
from mask2former.imaging import SUFFIXES, read_image
from mask2former.masks import EncodedMasks
from mask2former.structures import Category, Sample, Task

_SPLITS = ("train", "val", "test")
_YAML = ("data.yaml", "data.yml", "dataset.yaml")


class Yolo:
    """One split of a data.yaml, its images sorted by name; an image without labels has no object.

    Corners are shares of the image's sides. Labels lie where YOLO looks for them: the last folder
    `images` in the path is `labels` instead.
    """

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, data_yaml: str | AnyPath, split: str) -> None:
        """List the images. ValueError or FileNotFoundError name the file, the key and the cure."""
        self.path = any_path(data_yaml)
        content = _read_yaml(self.path)
        self.categories = _categories(content.get("names"), self.path)
        self._images = _images(content, split, self.path)
        if not self._images:
            raise ValueError(f"{self.path}: '{split}' names no image; correct the path")
        self._stems = Counter(path.stem for path in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def name_of(self, index: int) -> str:
        return self._images[index].name

    def labels_of(self, index: int) -> set[int]:
        return set(self._read_labels(label_file(self._images[index]), (1, 1))[0])

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image = read_image(path)
        size = image.shape[0], image.shape[1]
        labels, polygons = self._read_labels(label_file(path), size)
        return Sample(
            image=image,
            labels=np.array(labels, np.int64),
            masks=EncodedMasks(size, [[polygon] for polygon in polygons]),
            is_crowd=np.zeros(len(labels), bool),
            image_id=path.stem if self._stems[path.stem] == 1 else str(path),
            name=path.name,
        )

    def _read_labels(
        self, path: AnyPath, size: tuple[int, int]
    ) -> tuple[list[int], list[np.ndarray]]:
        labels: list[int] = []
        polygons: list[np.ndarray] = []
        problems: list[str] = []
        lines = path.read_text().splitlines() if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                label, polygon = self._read_line(line)
            except ValueError as error:
                problems.append(f"line {number}: {error}")
                continue
            labels.append(label)
            polygons.append((polygon * np.array(size[::-1])).ravel())
        raise_problems(path, problems)
        return labels, polygons

    def _read_line(self, line: str) -> tuple[int, np.ndarray]:
        words = line.split()
        try:
            label, values = int(words[0]), np.array(words[1:], float)
        except ValueError:
            raise ValueError(f"{line[:40]!r} is no class and numbers") from None
        if not 0 <= label < len(self.categories):
            raise ValueError(
                f"class {label} is not among the {len(self.categories)} 'names' of {self.path};"
                " add it there, or drop the line"
            )
        if len(values) == 4:
            raise ValueError("a box, which cannot train masks; export polygons (YOLO segmentation)")
        if len(values) < 6 or len(values) % 2:
            raise ValueError(f"{len(values)} numbers are no polygon x y x y ..., of 3 corners")
        if not (np.isfinite(values).all() and values.min() >= -0.01 and values.max() <= 1.01):
            raise ValueError("corners must lie within 0..1, as shares of the image's sides")
        return label, values.reshape(-1, 2).clip(0, 1)


def label_file(image: AnyPath) -> AnyPath:
    """The text file with an image's objects."""
    folder, name, up = image.parent, f"{image.stem}.txt", []
    while folder.name and folder.name != "images" and folder.parent != folder:
        up.append(folder.name)
        folder = folder.parent
    if folder.name != "images":
        return image.parent / name
    return (folder.parent / "labels").joinpath(*up[::-1]) / name


def _read_yaml(path: AnyPath) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict) or "names" not in content:
        raise ValueError(f"{path}: has no 'names'; list the classes there, by number")
    return content


def _categories(names: object, path: AnyPath) -> tuple[Category, ...]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or set(names) != set(range(len(names))) or not names:
        raise ValueError(f"{path}: 'names' must list the classes 0, 1, 2, ... without a gap")
    return tuple(
        Category(id=i, name=str(names[i]), is_thing=True, color=generated_color(i))
        for i in range(len(names))
    )


def _images(content: dict[str, Any], split: str, path: AnyPath) -> list[AnyPath]:
    """The images of a split: a folder, a text file that lists them, or several of both."""
    entries = content[split]
    found: list[AnyPath] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _place(content, str(entry), split, path)
        if place.is_file():
            lines = [line.strip() for line in place.read_text().splitlines() if line.strip()]
            found += [place.parent / line.removeprefix("./") for line in lines]
        else:
            found += [
                path
                for path in place.rglob("*")
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            ]
    return sorted(found)


def _place(content: dict[str, Any], entry: str, split: str, path: AnyPath) -> AnyPath:
    """Where an entry lies. Exports move about: what it says is tried, then the usual places."""
    root, plain = path.parent, entry.removeprefix("./")
    while plain.startswith("../"):  # Roboflow writes ../train/images for what lies beside the yaml
        plain = plain.removeprefix("../")
    candidates = [root / str(content.get("path") or ".") / entry, root / entry, root / plain]
    name = PurePosixPath(plain).parts
    candidates += [root / "images" / split, root / split / "images", root.joinpath(*name[-2:])]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{path}: '{split}' is {entry!r}, which does not exist; correct it, relative to the file"
    )


# --- the layout it lies in --------------------------------------------------------------------


def _splits(folder: AnyPath) -> tuple[str, ...]:
    for name in _YAML:
        if (folder / name).is_file():
            content = _read_yaml(folder / name)
            return tuple(split for split in _SPLITS if content.get(split))
    return ()


def _open(folder: AnyPath, split: str, task: Task) -> Yolo:
    path = next(folder / name for name in _YAML if (folder / name).is_file())
    return Yolo(path, split)


FORMAT = Format(
    name="yolo",
    title="YOLO segmentation",
    layout=("data.yaml with images/<s>/* and labels/<s>/*.txt",),
    tasks=("instance",),
    splits=_splits,
    open=_open,
)
